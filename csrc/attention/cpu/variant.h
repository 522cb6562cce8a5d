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

inline void backward(const BackwardParams& params, const CpuRuntime& runtime) {
  with_units(params.query.dtype, params.options.relative,
             [&](auto unit) { Backward<decltype(unit)>(params, runtime).run(); });
}

}  // namespace ptmkernels::attention::PTMKERNELS_CPU_ARCH
