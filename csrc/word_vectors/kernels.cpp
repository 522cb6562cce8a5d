#include "word_vectors/cpu/kernels.h"

#include "common/cpu_arch.h"

namespace ptmkernels {

const WordVectorKernels& word_vector_kernels() {
  switch (selected_cpu_arch()) {
#if PTMKERNELS_X86
    case CpuArch::kAvx2:
      return kAvx2WordVectors;
    case CpuArch::kAvx512:
    case CpuArch::kAvx512Bf16:
      return kAvx512WordVectors;
#endif
    case CpuArch::kWide:
      return kWideWordVectors;
    default:
      return kGenericWordVectors;
  }
}

}  // namespace ptmkernels
