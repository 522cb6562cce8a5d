// The table of kernels of one instruction set; included once by each variant_<arch>.cpp, after it
// has defined
//   PTMKERNELS_CPU_ARCH     the namespace of its code
//   PTMKERNELS_SIMD_WIDTH   the floats in a vector
//   PTMKERNELS_KERNEL_ROWS  the rows of the largest micro-kernel
// See simd.h on what such a unit may include.
#pragma once

#include "attention/cpu/backward.h"
#include "attention/cpu/decode.h"
#include "attention/cpu/forward.h"
#include "attention/cpu/kernels.h"

namespace ptmkernels::attention::PTMKERNELS_CPU_ARCH {

inline void forward(const ForwardParams& params, const CpuRuntime& runtime) {
  if (params.size.queries <= kDecodeQueries) {
    Decode(params, runtime).run();
  } else {
    Forward(params, runtime).run();
  }
}

inline void backward(const BackwardParams& params, const CpuRuntime& runtime) {
  Backward(params, runtime).run();
}

}  // namespace ptmkernels::attention::PTMKERNELS_CPU_ARCH
