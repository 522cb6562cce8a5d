// Walker's alias table: one draw from a distribution over V values in two look-ups.
#pragma once

#include <cstdint>
#include <vector>

namespace ptmkernels {

// Entry v is threshold << 32 | alias, as one uint64: a draw takes cell v uniformly and keeps v
// where a uniform 32-bit word is below the threshold, else gives the alias (Walker 1977; Vose
// 1991). weights: not negative, finite, of positive sum. Throws std::invalid_argument otherwise.
std::vector<int64_t> alias_table(const std::vector<double>& weights);

}  // namespace ptmkernels
