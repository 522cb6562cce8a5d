// Registers the CUDA kernels of hierarchical_softmax (cuda/op.h) with torch.

#include <torch/csrc/stable/library.h>

#include "hierarchical_softmax/cuda/op.h"

namespace op = ptmkernels::hierarchical_softmax::cuda;

STABLE_TORCH_LIBRARY_IMPL(ptmkernels, CUDA, m) {
  m.impl("hierarchical_softmax_forward", TORCH_BOX(&op::hierarchical_softmax_forward));
  m.impl("hierarchical_softmax_backward", TORCH_BOX(&op::hierarchical_softmax_backward));
}
