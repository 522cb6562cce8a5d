// The fused AdaGrad step of GloVe (Pennington et al. 2014, equation 8; Duchi et al. 2011) on the
// CPU.
//
// For a pair of count X with rows w, u and biases b, c:
//   d = w.u + b + c - log X,  f = min(1, (X / x_max)^power),  loss = f d^2 / 2,  g = f d
//   vectors: s = eta * clip(g * other);  value -= s / sqrt(sum);  sum += s^2
//   biases:  value -= g / sqrt(sum);     sum += g^2              (eta is not in them, as published)
// A vector step that is not finite is left out, as is a pair whose d is not finite.

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cmath>
#include <thread>
#include <vector>

namespace ptmkernels {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr double kClip = 100;

template <class T>
struct Side {
  T* vectors;
  T* sums;  // of squares, (V, D)
  T* bias;
  T* bias_sums;
};

template <class T>
struct Glove {
  Side<T> word, context;
  int64_t width;
  const int32_t* rows;
  const int32_t* columns;
  const double* values;
  double eta, x_max, power;

  static bool finite(T x) { return std::isfinite(x); }

  double step(int64_t pair, std::vector<T>& steps) const {
    const int64_t r = rows[pair], c = columns[pair];
    T* w = word.vectors + r * width;
    T* u = context.vectors + c * width;
    T* w_sums = word.sums + r * width;
    T* u_sums = context.sums + c * width;
    T distance = 0;
    for (int64_t d = 0; d < width; ++d) distance += w[d] * u[d];
    distance += word.bias[r] + context.bias[c] - static_cast<T>(std::log(values[pair]));
    const T g = values[pair] > x_max
                    ? distance
                    : static_cast<T>(std::pow(values[pair] / x_max, power)) * distance;
    if (!finite(distance) || !finite(g)) return 0;
    const auto clip = static_cast<T>(kClip), rate = static_cast<T>(eta);
    T total = 0;
    for (int64_t d = 0; d < width; ++d) {
      const T w_step = std::clamp(g * u[d], -clip, clip) * rate;
      const T u_step = std::clamp(g * w[d], -clip, clip) * rate;
      steps[d] = w_step / std::sqrt(w_sums[d]);
      steps[width + d] = u_step / std::sqrt(u_sums[d]);
      total += steps[d] + steps[width + d];
      w_sums[d] += w_step * w_step;
      u_sums[d] += u_step * u_step;
    }
    if (finite(total)) {
      for (int64_t d = 0; d < width; ++d) {
        w[d] -= steps[d];
        u[d] -= steps[width + d];
      }
    }
    step_bias(word.bias[r], word.bias_sums[r], g);
    step_bias(context.bias[c], context.bias_sums[c], g);
    return 0.5 * static_cast<double>(g) * static_cast<double>(distance);
  }

  static void step_bias(T& bias, T& sum, T g) {
    const T change = g / std::sqrt(sum);
    if (finite(change)) bias -= change;
    sum += g * g;
  }
};

template <class T>
Side<T> side(const Tensor& vectors, const Tensor& sums, const Tensor& bias,
             const Tensor& bias_sums) {
  return {static_cast<T*>(vectors.data_ptr()), static_cast<T*>(sums.data_ptr()),
          static_cast<T*>(bias.data_ptr()), static_cast<T*>(bias_sums.data_ptr())};
}

template <class T>
double run(const Glove<T>& glove, int64_t count, int64_t threads) {
  std::vector<double> losses(static_cast<size_t>(threads));
  auto work = [&](int64_t thread) {
    std::vector<T> steps(static_cast<size_t>(2 * glove.width));
    double loss = 0;
    for (int64_t p = count * thread / threads; p < count * (thread + 1) / threads; ++p) {
      loss += glove.step(p, steps);
    }
    losses[thread] = loss;
  };
  std::vector<std::thread> pool;
  for (int64_t t = 1; t < threads; ++t) pool.emplace_back(work, t);
  work(0);
  for (std::thread& thread : pool) thread.join();
  double total = 0;
  for (const double loss : losses) total += loss;
  return total;
}

template <class T>
double run_as(const std::vector<Tensor>& parameters, const Tensor& rows, const Tensor& columns,
              const Tensor& values, double eta, double x_max, double power, int64_t threads) {
  const auto& p = parameters;
  const Glove<T> glove = {side<T>(p[0], p[4], p[2], p[6]),
                          side<T>(p[1], p[5], p[3], p[7]),
                          p[0].size(1),
                          static_cast<const int32_t*>(rows.data_ptr()),
                          static_cast<const int32_t*>(columns.data_ptr()),
                          static_cast<const double*>(values.data_ptr()),
                          eta,
                          x_max,
                          power};
  return run(glove, rows.size(0), std::max<int64_t>(threads, 1));
}

Tensor glove_step_(Tensor word, Tensor context, Tensor word_bias, Tensor context_bias,
                   Tensor word_sums, Tensor context_sums, Tensor word_bias_sums,
                   Tensor context_bias_sums, const Tensor& rows, const Tensor& columns,
                   const Tensor& values, double learning_rate, double x_max, double power,
                   int64_t threads) {
  const std::vector<Tensor> parameters = {word,           context,          word_bias,
                                          context_bias,   word_sums,        context_sums,
                                          word_bias_sums, context_bias_sums};
  const auto step = word.scalar_type() == ScalarType::Double ? run_as<double> : run_as<float>;
  Tensor loss = torch::stable::empty({1}, ScalarType::Double);
  *static_cast<double*>(loss.data_ptr()) =
      step(parameters, rows, columns, values, learning_rate, x_max, power, threads);
  return loss;
}

}  // namespace
}  // namespace ptmkernels

STABLE_TORCH_LIBRARY_IMPL(ptmkernels, CPU, m) {
  m.impl("glove_step_", TORCH_BOX(&ptmkernels::glove_step_));
}
