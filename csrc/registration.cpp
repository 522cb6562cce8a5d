// Every op schema of ptmkernels, once. Implementations lie beside their kernels; fake kernels,
// autograd and autocast are registered from Python (ptmkernels/ops).

#include <torch/csrc/stable/library.h>

#include <string>

namespace {

// What a query may see of a key and what is added to its score (docs/architecture.md, "One
// attention algebra"); the same in forward and backward.
const std::string kAttentionOptions =
    "Tensor? key_rank, Tensor? query_low, Tensor? query_high, Tensor? tree, Tensor? allowed, "
    "Tensor? bias, Tensor? bias_table, Tensor? bias_bucket, "
    "float scale, float dropout_p, Tensor? seed, "
    "Tensor? relative_key, Tensor? relative_value, int relative_offset, Tensor? content_bias, "
    "Tensor? position_bias, Tensor? segment_bias, Tensor? segment_key, Tensor? query_segment, "
    "Tensor? key_segment, Tensor? query_position, int gapless_positions";

// Bit n of wanted_grads asks for the gradient of the n-th of the options below; the others come
// back empty.
const std::string kAttentionGradients =
    "Tensor grad_query, Tensor grad_key, Tensor grad_value, Tensor grad_bias, "
    "Tensor grad_bias_table, Tensor grad_relative_key, Tensor grad_relative_value, "
    "Tensor grad_content_bias, Tensor grad_position_bias, Tensor grad_segment_bias, "
    "Tensor grad_segment_key";

const std::string kAttentionForward = "(Tensor query, Tensor key, Tensor value, " +
                                      kAttentionOptions + ") -> (Tensor output, Tensor lse)";

const std::string kAttentionBackward =
    "(Tensor grad_output, Tensor? grad_lse, Tensor query, Tensor key, Tensor value, Tensor output, "
    "Tensor lse, " +
    kAttentionOptions + ", int wanted_grads) -> (" + kAttentionGradients + ")";

}  // namespace

STABLE_TORCH_LIBRARY(ptmkernels, m) {
  m.def("cpu_arch() -> str");
  m.def("template_op(Tensor x, Tensor y, float alpha) -> Tensor");
  // On CUDA float32 products are exact in the first pair of ops, in TF32 in the second.
  for (const std::string suffix : {"", "_tf32"}) {
    m.def(("attention_forward" + suffix + kAttentionForward).c_str());
    m.def(("attention_backward" + suffix + kAttentionBackward).c_str());
  }
  m.def(
      "word_vectors_step_(Tensor(a!) input_weight, Tensor(b!) output_weight, Tensor tokens, "
      "Tensor? keep, Tensor? alias, Tensor? tree_offsets, Tensor? tree_path, "
      "Tensor? subword_offsets, Tensor? subwords, int max_subwords, bool cbow, int window, "
      "int negatives, float learning_rate, float min_learning_rate, int position, int total, "
      "Tensor seed, int workers) -> Tensor statistics");
  m.def(
      "word2vec_exact_step_(Tensor(a!) input_weight, Tensor(b!) output_weight, Tensor tokens, "
      "Tensor counts, Tensor(c!) state, Tensor? noise_ends, Tensor? tree_offsets, "
      "Tensor? tree_path, bool cbow, int window, int negatives, float sample, "
      "float learning_rate, int train_words, int epochs) -> Tensor statistics");
  m.def(
      "glove_step_(Tensor(a!) word, Tensor(b!) context, Tensor(c!) word_bias, "
      "Tensor(d!) context_bias, Tensor(e!) word_sums, Tensor(f!) context_sums, "
      "Tensor(g!) word_bias_sums, Tensor(h!) context_bias_sums, Tensor rows, Tensor columns, "
      "Tensor values, float learning_rate, float x_max, float power, int threads) -> Tensor loss");
  m.def(
      "negative_sampling_forward(Tensor hidden, Tensor target, Tensor weight, Tensor? negatives, "
      "Tensor? alias, Tensor? seed, int num_negatives, Tensor? bias, Tensor? log_noise, "
      "bool skip_target, bool sparse) -> (Tensor loss, Tensor coefficient, Tensor ids)");
  m.def(
      "negative_sampling_backward(Tensor grad, Tensor hidden, Tensor weight, Tensor coefficient, "
      "Tensor ids, bool dense) -> (Tensor grad_hidden, Tensor grad_weight, Tensor grad_bias)");
  m.def(
      "hierarchical_softmax_forward(Tensor hidden, Tensor target, Tensor node_weight, "
      "Tensor offsets, Tensor path, int depth, bool sparse) -> Tensor loss");
  m.def(
      "hierarchical_softmax_backward(Tensor grad, Tensor hidden, Tensor target, "
      "Tensor node_weight, Tensor offsets, Tensor path, int depth, bool dense) "
      "-> (Tensor grad_hidden, Tensor grad_weight)");
  m.def(
      "hierarchical_softmax_log_prob_forward(Tensor logits, Tensor steps, Tensor levels) "
      "-> Tensor log_prob");
  m.def(
      "hierarchical_softmax_log_prob_backward(Tensor grad, Tensor logits, Tensor steps, "
      "Tensor levels) -> Tensor grad_logits");
}
