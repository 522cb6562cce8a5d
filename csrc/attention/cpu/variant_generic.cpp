#define PTMKERNELS_CPU_ARCH generic
#define PTMKERNELS_SIMD_WIDTH 4
#define PTMKERNELS_KERNEL_ROWS 6

#include "csrc/attention/cpu/variant.h"

namespace ptmkernels::attention {

extern const CpuKernels kGenericKernels;
const CpuKernels kGenericKernels = {generic::forward, generic::backward};

}  // namespace ptmkernels::attention
