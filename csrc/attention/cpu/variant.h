// The table of kernels of one instruction set; included once by each variant_<arch>.cpp, after it
// has defined
//   PTMKERNELS_CPU_ARCH     the namespace of its code
//   PTMKERNELS_SIMD_WIDTH   the floats in a vector
//   PTMKERNELS_KERNEL_ROWS  the rows of the largest micro-kernel
//   PTMKERNELS_BFLOAT16_PRODUCTS  1 where bfloat16 is multiplied as it is, 0 where it is converted
//   to float32 first
// See simd.h on what such a unit may include.
#pragma once

#include "attention/cpu/backward.h"
#include "attention/cpu/decode.h"
#include "attention/cpu/forward.h"
#include "attention/cpu/kernels.h"

namespace ptmkernels::attention::PTMKERNELS_CPU_ARCH {

// Calls run with a value of the unit that products are computed in. Relative and segment terms are
// added to the queries in float32, so theirs are floats.
template <class Run>
void with_units(DType dtype, const Relative& relative, const Run& run) {
#if PTMKERNELS_BFLOAT16_PRODUCTS
  const bool plain = !relative.key.data && !relative.value.data && !relative.content_bias.data &&
                     !relative.segment_key.data;
  if (dtype == DType::kBFloat16 && plain) return run(Pair());
#endif
  run(float());
}

inline void forward(const ForwardParams& params, const CpuRuntime& runtime) {
  if (params.size.queries <= kDecodeQueries) {
    Decode(params, runtime).run();
  } else {
    with_units(params.query.dtype, params.options.relative,
               [&](auto unit) { Forward<decltype(unit)>(params, runtime).run(); });
  }
}

// Whether a bias has made some log-sum-exp so large that its last digit is felt in the weights.
inline bool loses_digits(const BackwardParams& params) {
  constexpr float kLargeLse = 1024;
  if (!params.options.bias.data && !params.options.table) return false;
  const int64_t rows = params.size.batches * params.size.heads * params.size.queries;
  for (int64_t row = 0; row < rows; ++row) {
    const float lse = params.lse[row];
    if (lse > kLargeLse || (lse < -kLargeLse && lse > -kInfinity)) return true;
  }
  return false;
}

// What rounding took from the log-sum-exp of each row: another forward pass, rarely needed.
inline const float* rests_of(const BackwardParams& params, const CpuRuntime& runtime) {
  const Sizes& size = params.size;
  const int64_t rows = size.batches * size.heads * size.queries;
  ForwardParams again = {size, params.options, params.query, params.key, params.value};
  again.options.dropout = 0;
  again.output = {allocate<float>(runtime, rows * size.dimension), DType::kFloat32,
                  size.heads * size.queries * size.dimension, size.queries * size.dimension,
                  size.dimension};
  again.lse = allocate<float>(runtime, rows);
  again.lse_rest = allocate<float>(runtime, rows);
  forward(again, runtime);
  return again.lse_rest;
}

inline void backward(const BackwardParams& params, const CpuRuntime& runtime) {
  const float* const rests = loses_digits(params) ? rests_of(params, runtime) : nullptr;
  with_units(params.query.dtype, params.options.relative,
             [&](auto unit) { Backward<decltype(unit)>(params, rests, runtime).run(); });
}

}  // namespace ptmkernels::attention::PTMKERNELS_CPU_ARCH
