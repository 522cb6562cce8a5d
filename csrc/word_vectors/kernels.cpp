#include "word_vectors/cpu/kernels.h"

#include "common/cpu_arch.h"

namespace ptmkernels {

const WordVectorKernels& word_vector_kernels() {
  return PTMKERNELS_FOR_THIS_CPU(kGenericWordVectors, kWideWordVectors, kAvx2WordVectors,
                                 kAvx512WordVectors, kAvx512WordVectors);
}

}  // namespace ptmkernels
