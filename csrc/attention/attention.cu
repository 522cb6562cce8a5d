// Registers the CUDA kernels of attention (cuda/op.h) with torch.

#include <torch/csrc/stable/library.h>

#include "attention/cuda/op.h"

STABLE_TORCH_LIBRARY_IMPL(ptmkernels, CUDA, m) {
  m.impl("attention_forward", TORCH_BOX(&ptmkernels::attention::cuda::attention_forward));
  m.impl("attention_backward", TORCH_BOX(&ptmkernels::attention::cuda::attention_backward));
}
