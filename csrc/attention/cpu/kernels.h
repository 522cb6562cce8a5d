// The CPU kernels of attention, one table for each instruction set that this build carries.
#pragma once

#include "csrc/attention/params.h"
#include "csrc/common/cpu_arch.h"
#include "csrc/common/cpu_runtime.h"

namespace ptmkernels::attention {

struct CpuKernels {
  void (*forward)(const ForwardParams& params, const CpuRuntime& runtime);
  void (*backward)(const BackwardParams& params, const CpuRuntime& runtime);
};

// Defined by variant_<arch>.cpp.
extern const CpuKernels kGenericKernels;
extern const CpuKernels kWideKernels;
#if PTMKERNELS_X86
extern const CpuKernels kAvx2Kernels;
extern const CpuKernels kAvx512Kernels;
extern const CpuKernels kAvx512Bf16Kernels;
#endif

inline const CpuKernels& cpu_kernels(CpuArch arch) {
  switch (arch) {
#if PTMKERNELS_X86
    case CpuArch::kAvx2:
      return kAvx2Kernels;
    case CpuArch::kAvx512:
      return kAvx512Kernels;
    case CpuArch::kAvx512Bf16:
      return kAvx512Bf16Kernels;
#endif
    case CpuArch::kWide:
      return kWideKernels;
    default:
      return kGenericKernels;
  }
}

}  // namespace ptmkernels::attention
