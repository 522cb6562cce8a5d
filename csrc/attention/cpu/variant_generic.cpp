#define PTMKERNELS_CPU_ARCH generic
#define PTMKERNELS_SIMD_WIDTH 4
#define PTMKERNELS_KERNEL_ROWS 6
#define PTMKERNELS_BFLOAT16_PRODUCTS 0

#include "attention/cpu/variant.h"

namespace ptmkernels::attention {

const CpuKernels kGenericKernels = {generic::forward, generic::backward};

}  // namespace ptmkernels::attention
