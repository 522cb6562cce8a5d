#define PTMKERNELS_CPU_ARCH avx512_bf16
#define PTMKERNELS_SIMD_WIDTH 16
#define PTMKERNELS_KERNEL_ROWS 8
#define PTMKERNELS_BFLOAT16_PRODUCTS 1

#include "attention/cpu/variant.h"

namespace ptmkernels::attention {

const CpuKernels kAvx512Bf16Kernels = {avx512_bf16::forward, avx512_bf16::backward};

}  // namespace ptmkernels::attention
