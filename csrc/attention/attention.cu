// Registers the CUDA kernels of attention (cuda/op.h) with torch.

#include <torch/csrc/stable/library.h>

#include "attention/cuda/op.h"

using ptmkernels::attention::cuda::attention_backward;
using ptmkernels::attention::cuda::attention_forward;

STABLE_TORCH_LIBRARY_IMPL(ptmkernels, CUDA, m) {
  m.impl("attention_forward", TORCH_BOX(&attention_forward<true>));
  m.impl("attention_backward", TORCH_BOX(&attention_backward<true>));
  m.impl("attention_forward_tf32", TORCH_BOX(&attention_forward<false>));
  m.impl("attention_backward_tf32", TORCH_BOX(&attention_backward<false>));
}
