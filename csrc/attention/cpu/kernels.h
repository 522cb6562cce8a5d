// The CPU kernels of attention: one table for each instruction set that this build carries. Plain
// types only (see common/simd.h).
#pragma once

#include "attention/params.h"
#include "common/cpu_runtime.h"

namespace ptmkernels::attention {

struct CpuKernels {
  void (*forward)(const ForwardParams& params, const CpuRuntime& runtime);
  void (*backward)(const BackwardParams& params, const CpuRuntime& runtime);
};

// Defined in variant_<arch>.cpp.
extern const CpuKernels kGenericKernels;
extern const CpuKernels kWideKernels;
extern const CpuKernels kAvx2Kernels;
extern const CpuKernels kAvx512Kernels;
extern const CpuKernels kAvx512Bf16Kernels;

}  // namespace ptmkernels::attention
