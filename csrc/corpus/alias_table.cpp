#include "corpus/alias_table.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>

namespace ptmkernels {
namespace {

constexpr double kWord = 4294967296.0;  // 2^32

double checked_sum(const std::vector<double>& weights) {
  double sum = 0;
  for (size_t v = 0; v < weights.size(); ++v) {
    if (!(weights[v] >= 0) || !std::isfinite(weights[v])) {
      throw std::invalid_argument("weights[" + std::to_string(v) + "] is " +
                                  std::to_string(weights[v]) + "; expected a finite number >= 0");
    }
    sum += weights[v];
  }
  if (!std::isfinite(sum)) throw std::invalid_argument("weights sum to infinity");
  if (!(sum > 0)) throw std::invalid_argument("weights sum to 0; expected one that is positive");
  if (weights.size() > 0x7fffffff)
    throw std::invalid_argument("weights has more than 2**31 - 1 values");
  return sum;
}

int64_t entry(double keep, int32_t alias) {
  const auto threshold = static_cast<uint64_t>(std::min(std::round(keep * kWord), kWord - 1));
  return static_cast<int64_t>(threshold << 32 | static_cast<uint32_t>(alias));
}

}  // namespace

std::vector<int64_t> alias_table(const std::vector<double>& weights) {
  const double mean = checked_sum(weights) / static_cast<double>(weights.size());
  std::vector<double> mass(weights.size());
  std::vector<int32_t> poor, rich;
  for (size_t v = 0; v < weights.size(); ++v) {
    mass[v] = weights[v] / mean;
    (mass[v] < 1 ? poor : rich).push_back(static_cast<int32_t>(v));
  }
  std::vector<int64_t> table(weights.size());
  while (!poor.empty() && !rich.empty()) {
    const int32_t low = poor.back(), high = rich.back();
    poor.pop_back();
    table[low] = entry(mass[low], high);
    mass[high] -= 1 - mass[low];
    if (mass[high] < 1) {
      rich.pop_back();
      poor.push_back(high);
    }
  }
  // What is left has mass 1 but for round-off: its own alias.
  for (const auto& rest : {poor, rich}) {
    for (const int32_t v : rest) table[v] = entry(1, v);
  }
  return table;
}

}  // namespace ptmkernels
