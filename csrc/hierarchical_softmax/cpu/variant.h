// The kernels of one instruction set; included once by each variant_<arch>.cpp, after it has
// defined PTMKERNELS_CPU_ARCH and PTMKERNELS_SIMD_WIDTH. See common/simd.h on what such a unit may
// include.
#pragma once

#include "common/simd_convert.h"
#include "hierarchical_softmax/cpu/kernels.h"

namespace ptmkernels::PTMKERNELS_CPU_ARCH {

struct Branches {
  Vec zero, one;
};

// exp(-|x|): what both functions are made of, so that nothing overflows.
PTMKERNELS_INLINE Vec exp_of_size(Vec x) { return exp2(max(x, -x) * -kLog2e); }

// log(1 + e) for 0 <= e <= 1 as 2 artanh(e / (2 + e)), to 2e-7 of its value: the series has no
// cancellation where e is small.
PTMKERNELS_INLINE Vec log1p(Vec e) {
  const Vec t = e / (e + 2.0f);
  const Vec square = t * t;
  Vec series = square * (1.0f / 15) + 1.0f / 13;
  series = series * square + 1.0f / 11;
  series = series * square + 1.0f / 9;
  series = series * square + 1.0f / 7;
  series = series * square + 1.0f / 5;
  series = series * square + 1.0f / 3;
  series = series * square + 1.0f;
  return 2.0f * t * series;
}

struct LogProbabilities {
  PTMKERNELS_INLINE Branches operator()(Vec x) const {
    const Vec both = log1p(exp_of_size(x));
    return {min(splat(0.0f), x) - both, min(splat(0.0f), -x) - both};
  }
};

struct Probabilities {
  PTMKERNELS_INLINE Branches operator()(Vec x) const {
    const Vec e = exp_of_size(x);
    const Vec likely = 1.0f / (1.0f + e), unlikely = e * likely;
    return {select(x >= 0.0f, likely, unlikely), select(x >= 0.0f, unlikely, likely)};
  }
};

template <class Function>
void apply(const Function& function, float* zero, float* one, const float* x, int64_t count) {
  int64_t i = 0;
  for (; i + kWidth <= count; i += kWidth) {
    const Branches y = function(load(x + i));
    store(zero + i, y.zero);
    store(one + i, y.one);
  }
  if (i == count) return;
  const Branches y = function(load_first(x + i, count - i));
  store_first(zero + i, y.zero, count - i);
  store_first(one + i, y.one, count - i);
}

inline void log_probabilities(float* zero, float* one, const float* x, int64_t count) {
  apply(LogProbabilities{}, zero, one, x, count);
}

inline void probabilities(float* zero, float* one, const float* x, int64_t count) {
  apply(Probabilities{}, zero, one, x, count);
}

}  // namespace ptmkernels::PTMKERNELS_CPU_ARCH
