// The training step of word2vec.c, operation by operation and in its order, on one thread: the same
// generator, tables and rounding (Mikolov et al. 2013; the C tool, "exact mode" of
// docs/word_vectors.md).

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <vector>

#include "word_vectors/step.h"

namespace ptmkernels {
namespace {

using torch::stable::Tensor;
using OptionalTensor = std::optional<Tensor>;

constexpr int kTableSize = 1000;  // of the sigmoid, over -6 ... 6
constexpr int kLimit = 6;
constexpr int64_t kNoiseTable = 100000000;
constexpr int64_t kRateEvery = 10000;  // words between two changes of the learning rate

// What word2vec.c keeps from one sentence to the next.
enum State { kRandom, kPending, kDone, kDoneAtRate };

struct Exact {
  float* input;
  float* output;
  int64_t input_stride, output_stride;
  int64_t width;
  const int64_t* counts;
  int64_t vocabulary;
  int64_t* state;
  const int64_t*
      noise_ends;  // (V): the last cell of the noise table that holds word v; null = a tree
  const int64_t* tree_offsets;
  const int32_t* tree_path;
  bool cbow;
  int64_t window, negatives;
  float sample, learning_rate;
  int64_t train_words, epochs;

  float rate = 0;
  std::vector<float> sigmoid, hidden, error;
  std::vector<int64_t> sentence;
  double pairs = 0, words = 0;

  uint64_t random() {
    const uint64_t next = static_cast<uint64_t>(state[kRandom]) * 25214903917u + 11;
    state[kRandom] = static_cast<int64_t>(next);
    return next;
  }

  void prepare() {
    sigmoid.resize(kTableSize);
    for (int i = 0; i < kTableSize; ++i) {
      const float x = (static_cast<float>(i) / static_cast<float>(kTableSize) * 2 - 1) * kLimit;
      const auto e = static_cast<float>(std::exp(static_cast<double>(x)));  // as C's exp has it
      sigmoid[i] = e / (e + 1);
    }
    hidden.resize(width);
    error.resize(width);
    rate = rate_at(state[kDoneAtRate]);
  }

  float rate_at(int64_t done) const {
    const auto all = static_cast<float>(epochs * train_words + 1);
    const float falling = learning_rate * (1 - static_cast<float>(done) / all);
    const auto least = static_cast<float>(learning_rate * 0.0001);
    return falling < least ? least : falling;
  }

  bool keeps(int64_t word) {
    if (sample <= 0) return true;
    const float threshold = sample * static_cast<float>(train_words);
    const double root =
        std::sqrt(static_cast<double>(static_cast<float>(counts[word]) / threshold));
    const auto chance =
        static_cast<float>((root + 1) * threshold / static_cast<double>(counts[word]));
    return chance >= static_cast<float>(random() & 0xFFFF) / 65536.0f;
  }

  void run(const int32_t* tokens, int64_t count) {
    for (int64_t next = 0; next < count;) {
      if (state[kPending] > kRateEvery) {
        state[kDone] += state[kPending];
        state[kPending] = 0;
        state[kDoneAtRate] = state[kDone];
        rate = rate_at(state[kDone]);
      }
      bool complete = false;
      std::vector<int64_t> kept;
      while (next < count && !complete) {
        const int64_t word = tokens[next++];
        ++state[kPending];
        if (word == 0) {
          complete = true;
        } else if (keeps(word)) {
          kept.push_back(word);
          complete = static_cast<int64_t>(kept.size()) >= kMaxSentence;
        }
      }
      if (!complete) return;  // the end of the text inside a sentence
      sentence = std::move(kept);
      words += static_cast<double>(sentence.size());
      // An empty sentence still draws a window.
      if (sentence.empty()) random();
      for (int64_t i = 0; i < static_cast<int64_t>(sentence.size()); ++i) train(i);
    }
  }

  void train(int64_t i) {
    const auto shrink = static_cast<int64_t>(random() % static_cast<uint64_t>(window));
    const int64_t reach = window - shrink;
    std::vector<int64_t> contexts;
    for (int64_t j = i - reach; j <= i + reach; ++j) {
      if (j >= 0 && j < static_cast<int64_t>(sentence.size()) && j != i) {
        contexts.push_back(sentence[j]);
      }
    }
    pairs += static_cast<double>(contexts.size());
    if (cbow) {
      if (!contexts.empty()) train_mean(contexts, sentence[i]);
      return;
    }
    for (const int64_t context : contexts) {
      float* row = input + context * input_stride;
      std::fill(error.begin(), error.end(), 0.0f);
      score(row, sentence[i]);
      for (int64_t d = 0; d < width; ++d) row[d] += error[d];
    }
  }

  void train_mean(const std::vector<int64_t>& contexts, int64_t word) {
    std::fill(hidden.begin(), hidden.end(), 0.0f);
    std::fill(error.begin(), error.end(), 0.0f);
    for (const int64_t context : contexts) {
      const float* row = input + context * input_stride;
      for (int64_t d = 0; d < width; ++d) hidden[d] += row[d];
    }
    for (float& h : hidden) h /= static_cast<float>(contexts.size());
    score(hidden.data(), word);
    for (const int64_t context : contexts) {
      float* row = input + context * input_stride;
      for (int64_t d = 0; d < width; ++d) row[d] += error[d];
    }
  }

  void score(const float* h, int64_t word) {
    if (!noise_ends) {
      for (int64_t p = tree_offsets[word]; p < tree_offsets[word + 1]; ++p) {
        update(h, output + (tree_path[p] >> 1) * output_stride, 1 - (tree_path[p] & 1), false);
      }
      return;
    }
    for (int64_t n = 0; n <= negatives; ++n) {
      int64_t target = word;
      if (n > 0) {
        const uint64_t draw = random();
        const auto cell = static_cast<int64_t>((draw >> 16) % kNoiseTable);
        target = std::lower_bound(noise_ends, noise_ends + vocabulary - 1, cell) - noise_ends;
        if (target == 0) {
          target = static_cast<int64_t>(draw % static_cast<uint64_t>(vocabulary - 1)) + 1;
        }
        if (target == word) continue;
      }
      update(h, output + target * output_stride, n == 0, true);
    }
  }

  // Outside of -6 ... 6 the sigmoid counts as 0 or 1 (saturates), or the row is left alone.
  void update(const float* h, float* v, int label, bool saturates) {
    float f = 0;
    for (int64_t d = 0; d < width; ++d) f += h[d] * v[d];
    const bool beyond = saturates ? f > kLimit || f < -kLimit : f >= kLimit || f <= -kLimit;
    if (beyond && !saturates) return;
    float g;
    if (beyond) {
      g = static_cast<float>(f > 0 ? label - 1 : label) * rate;
    } else {
      const int cell = static_cast<int>((f + kLimit) * (kTableSize / kLimit / 2));
      g = (static_cast<float>(label) - sigmoid[cell]) * rate;
    }
    for (int64_t d = 0; d < width; ++d) error[d] += g * v[d];
    for (int64_t d = 0; d < width; ++d) v[d] += g * h[d];
  }
};

Tensor word2vec_exact_step_(Tensor input_weight, Tensor output_weight, const Tensor& tokens,
                            const Tensor& counts, Tensor state, const OptionalTensor& noise_ends,
                            const OptionalTensor& tree_offsets, const OptionalTensor& tree_path,
                            bool cbow, int64_t window, int64_t negatives, double sample,
                            double learning_rate, int64_t train_words, int64_t epochs) {
  Exact exact = {};
  exact.input = static_cast<float*>(input_weight.data_ptr());
  exact.output = static_cast<float*>(output_weight.data_ptr());
  exact.input_stride = input_weight.stride(0);
  exact.output_stride = output_weight.stride(0);
  exact.width = input_weight.size(1);
  exact.counts = static_cast<const int64_t*>(counts.data_ptr());
  exact.vocabulary = counts.size(0);
  exact.state = static_cast<int64_t*>(state.data_ptr());
  if (noise_ends) {
    exact.noise_ends = static_cast<const int64_t*>(noise_ends->data_ptr());
  } else {
    exact.tree_offsets = static_cast<const int64_t*>(tree_offsets->data_ptr());
    exact.tree_path = static_cast<const int32_t*>(tree_path->data_ptr());
  }
  exact.cbow = cbow;
  exact.window = window;
  exact.negatives = negatives;
  exact.sample = static_cast<float>(sample);
  exact.learning_rate = static_cast<float>(learning_rate);
  exact.train_words = train_words;
  exact.epochs = epochs;
  exact.prepare();
  exact.run(static_cast<const int32_t*>(tokens.data_ptr()), tokens.size(0));
  Tensor result = torch::stable::empty({4}, torch::headeronly::ScalarType::Double);
  const double values[] = {0, 0, exact.pairs, exact.words};
  std::copy_n(values, 4, static_cast<double*>(result.data_ptr()));
  return result;
}

}  // namespace
}  // namespace ptmkernels

STABLE_TORCH_LIBRARY_IMPL(ptmkernels, CPU, m) {
  m.impl("word2vec_exact_step_", TORCH_BOX(&ptmkernels::word2vec_exact_step_));
}
