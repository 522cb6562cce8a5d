// Bags of rows: their mean, and a change that all of them get (CBOW). Rows of float32 and of whole
// cache lines.
//
// Their number varies from window to window, so that the end of a loop over them is foreseen badly:
// there is a kernel for each number of rows, and its only loop goes along the rows.
#pragma once

#include "word_vectors/cpu/tile.h"

namespace ptmkernels::PTMKERNELS_CPU_ARCH {

constexpr int kBagRows = 10;  // of a kernel: all those in reach with a window of 5

// y = factor * (the sum of the rows, and of y if `onto`)
template <int N>
PTMKERNELS_NOINLINE void sum_bag(float* y, void* const* rows, bool onto, float factor,
                                 int32_t width) {
  const float* row[N];
  PTMKERNELS_UNROLL
  for (int r = 0; r < N; ++r) row[r] = static_cast<const float*>(rows[r]);
  for (int32_t d = 0; d < width; d += kWidth) {
    Vec sum = onto ? load(y + d) : Vec{};
    PTMKERNELS_UNROLL
    for (int r = 0; r < N; ++r) sum += load(row[r] + d);
    store(y + d, sum * factor);
  }
}

// A row that occurs twice gets it twice.
template <int N>
PTMKERNELS_NOINLINE void change_bag(void* const* rows, const float* change, int32_t width) {
  float* row[N];
  PTMKERNELS_UNROLL
  for (int r = 0; r < N; ++r) row[r] = static_cast<float*>(rows[r]);
  for (int32_t d = 0; d < width; d += kLine) {
    Vec by[kLineVectors];
    PTMKERNELS_UNROLL
    for (int i = 0; i < kLineVectors; ++i) by[i] = load(change + d + i * kWidth);
    PTMKERNELS_UNROLL
    for (int r = 0; r < N; ++r) {
      PTMKERNELS_UNROLL
      for (int i = 0; i < kLineVectors; ++i) {
        float* const at = row[r] + d + i * kWidth;
        store(at, load(at) + by[i]);
      }
    }
  }
}

// y = the mean of count rows.
inline void mean_of_bag(float* y, void* const* rows, int32_t count, int32_t width) {
  using Sum = void (*)(float*, void* const*, bool, float, int32_t);
  static constexpr Sum kSums[kBagRows] = {sum_bag<1>, sum_bag<2>, sum_bag<3>, sum_bag<4>,
                                          sum_bag<5>, sum_bag<6>, sum_bag<7>, sum_bag<8>,
                                          sum_bag<9>, sum_bag<10>};
  for (int32_t done = 0, taken = 0; done < count; done += taken) {
    taken = count - done < kBagRows ? count - done : kBagRows;
    const bool last = done + taken == count;
    const float factor = last ? 1.0f / static_cast<float>(count) : 1.0f;
    kSums[taken - 1](y, rows + done, done > 0, factor, width);
  }
}

inline void add_to_bag(void* const* rows, int32_t count, const float* change, int32_t width) {
  using Change = void (*)(void* const*, const float*, int32_t);
  static constexpr Change kChanges[kBagRows] = {
      change_bag<1>, change_bag<2>, change_bag<3>, change_bag<4>, change_bag<5>,
      change_bag<6>, change_bag<7>, change_bag<8>, change_bag<9>, change_bag<10>};
  for (int32_t done = 0, taken = 0; done < count; done += taken) {
    taken = count - done < kBagRows ? count - done : kBagRows;
    kChanges[taken - 1](rows + done, change, width);
  }
}

}  // namespace ptmkernels::PTMKERNELS_CPU_ARCH
