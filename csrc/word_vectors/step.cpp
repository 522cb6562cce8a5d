// The torch op of the fused training step on the CPU: shares the sentences out to threads. Nothing
// is checked here: ptmkernels/ops/word_vectors has done so.

#include "word_vectors/step.h"

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <algorithm>
#include <cstdlib>
#include <memory>
#include <optional>
#include <thread>
#include <vector>

#include "word_vectors/arguments.h"
#include "word_vectors/cpu/kernels.h"

namespace ptmkernels {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using OptionalTensor = std::optional<Tensor>;

// Tokens that a thread takes at once: few, so that the text is trained in its order with any number
// of threads. Where its subject changes, vectors trained in another order are as good but have
// other neighbours (docs/word_vectors.md).
constexpr int64_t kChunk = 64;

// Ends of chunks of at least kChunk tokens that do not cut a sentence.
std::vector<int64_t> chunk_ends(const int32_t* tokens, int64_t count) {
  std::vector<int64_t> ends;
  int64_t run = 0, start = 0;
  for (int64_t i = 0; i < count; ++i) {
    run = tokens[i] < 0 ? 0 : run + 1;
    if (run == kMaxSentence) run = 0;
    if (run == 0 && i + 1 - start >= kChunk) {
      ends.push_back(i + 1);
      start = i + 1;
    }
  }
  if (start < count) ends.push_back(count);
  return ends;
}

// Rows are visited at random: with pages of 4 KiB almost every one costs a walk of the page table.
// A wish only, which the system may refuse; it costs nothing where it has been fulfilled before.
void ask_for_huge_pages(const Tensor& weight) {
#if defined(__linux__)
  constexpr uintptr_t kHugePage = 2 << 20;
  constexpr int kCollapse = 25;  // MADV_COLLAPSE, of Linux 6.1 and later
  const auto address = reinterpret_cast<uintptr_t>(weight.data_ptr());
  const int64_t elements = (weight.size(0) - 1) * weight.stride(0) + weight.size(1);
  const uintptr_t bytes =
      static_cast<uintptr_t>(elements) * (weight.scalar_type() == ScalarType::BFloat16 ? 2 : 4);
  const uintptr_t begin = (address + kHugePage - 1) / kHugePage * kHugePage;
  const uintptr_t end = (address + bytes) / kHugePage * kHugePage;
  if (weight.numel() > 0 && begin < end)
    madvise(reinterpret_cast<void*>(begin), end - begin, kCollapse);
#endif
}

struct Free {
  void operator()(void* memory) const { std::free(memory); }
};

StepStatistics run_chunks(const StepOptions& options, const std::vector<int64_t>& ends) {
  const WordVectorKernels& kernels = word_vector_kernels();
  const size_t bytes = (kernels.scratch_bytes(options) + 63) / 64 * 64;
  std::vector<StepStatistics> shares(static_cast<size_t>(options.threads));
  ChunkQueue chunks = {ends.data(), static_cast<int64_t>(ends.size()), 0, 0};
  auto work = [&](size_t thread) {
    const std::unique_ptr<char, Free> scratch(static_cast<char*>(std::aligned_alloc(64, bytes)));
    StepWork part = {&options, &chunks, static_cast<int64_t>(thread), scratch.get(), {}};
    kernels.run(part);
    shares[thread] = part.statistics;
  };
  std::vector<std::thread> pool;
  for (size_t t = 1; t < shares.size(); ++t) pool.emplace_back(work, t);
  work(0);
  for (std::thread& thread : pool) thread.join();
  StepStatistics total = {};
  for (const StepStatistics& share : shares) {
    total.loss += share.loss;
    total.loss_pairs += share.loss_pairs;
    total.pairs += share.pairs;
    total.words += share.words;
  }
  return total;
}

Tensor word_vectors_step_(Tensor input_weight, Tensor output_weight, const Tensor& tokens,
                          const OptionalTensor& keep, const OptionalTensor& alias,
                          const OptionalTensor& tree_offsets, const OptionalTensor& tree_path,
                          const OptionalTensor& subword_offsets, const OptionalTensor& subwords,
                          int64_t max_subwords, bool cbow, int64_t window, int64_t negatives,
                          double learning_rate, double min_learning_rate, int64_t position,
                          int64_t total, const Tensor& seed, int64_t threads) {
  StepOptions options =
      step_options(input_weight, output_weight, tokens, keep, alias, tree_offsets, tree_path,
                   subword_offsets, subwords, max_subwords, cbow, window, negatives, learning_rate,
                   min_learning_rate, position, total);
  options.seed = static_cast<uint64_t>(*static_cast<const int64_t*>(seed.data_ptr()));

  ask_for_huge_pages(input_weight);
  ask_for_huge_pages(output_weight);
  const std::vector<int64_t> ends = chunk_ends(options.tokens, options.token_count);
  options.threads = std::clamp<int64_t>(threads, 1, std::max<int64_t>(ends.size(), 1));
  const StepStatistics sums = run_chunks(options, ends);
  Tensor result = torch::stable::empty({4}, ScalarType::Double);
  const double values[] = {sums.loss, sums.loss_pairs, sums.pairs, sums.words};
  std::copy_n(values, 4, static_cast<double*>(result.data_ptr()));
  return result;
}

}  // namespace
}  // namespace ptmkernels

STABLE_TORCH_LIBRARY_IMPL(ptmkernels, CPU, m) {
  m.impl("word_vectors_step_", TORCH_BOX(&ptmkernels::word_vectors_step_));
}
