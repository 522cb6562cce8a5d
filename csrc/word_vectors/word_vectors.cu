// Registers the CUDA kernels of word vectors, the losses and the training step, with torch: in one
// unit, for most of the time of compiling any of them goes into what they share.

#include <torch/csrc/stable/library.h>

#include "hierarchical_softmax/cuda/log_prob.h"
#include "hierarchical_softmax/cuda/op.h"
#include "negative_sampling/cuda/op.h"
#include "word_vectors/cuda/op.h"

namespace sampling = ptmkernels::negative_sampling::cuda;
namespace softmax = ptmkernels::hierarchical_softmax::cuda;

STABLE_TORCH_LIBRARY_IMPL(ptmkernels, CUDA, m) {
  m.impl("negative_sampling_forward", TORCH_BOX(&sampling::negative_sampling_forward));
  m.impl("negative_sampling_backward", TORCH_BOX(&sampling::negative_sampling_backward));
  m.impl("hierarchical_softmax_forward", TORCH_BOX(&softmax::hierarchical_softmax_forward));
  m.impl("hierarchical_softmax_backward", TORCH_BOX(&softmax::hierarchical_softmax_backward));
  m.impl("hierarchical_softmax_log_prob_forward",
         TORCH_BOX(&softmax::hierarchical_softmax_log_prob_forward));
  m.impl("hierarchical_softmax_log_prob_backward",
         TORCH_BOX(&softmax::hierarchical_softmax_log_prob_backward));
  m.impl("word_vectors_step_", TORCH_BOX(&ptmkernels::word_vectors::cuda::word_vectors_step_));
}
