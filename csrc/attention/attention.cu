// Registers the CUDA kernels of attention (cuda/op.h) with torch.

#include <torch/csrc/stable/library.h>

#include "attention/cuda/op.h"

namespace ptmkernels::attention {

STABLE_TORCH_LIBRARY_IMPL(ptmkernels, CUDA, m) {
  m.impl("attention_forward", TORCH_BOX(&attention_forward<&cuda::forward<true>>));
  m.impl("attention_backward", TORCH_BOX(&attention_backward<&cuda::backward<true>>));
  m.impl("attention_forward_tf32", TORCH_BOX(&attention_forward<&cuda::forward<false>>));
  m.impl("attention_backward_tf32", TORCH_BOX(&attention_backward<&cuda::backward<false>>));
}

}  // namespace ptmkernels::attention
