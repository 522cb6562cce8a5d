#include "corpus/huffman.h"

#include <algorithm>
#include <stdexcept>
#include <string>

namespace ptmkernels {
namespace {

constexpr int64_t kMaxWords = int64_t{1} << 30;  // node * 2 + bit fits 31 bits

// The two lightest trees that have no parent yet, again and again. Nodes 0 ... V - 1 are the words.
class QueueMerger {
 public:
  explicit QueueMerger(const std::vector<int64_t>& weight)
      : weight_(weight), leaf_(static_cast<int64_t>(weight.size()) - 1), inner_(leaf_ + 1) {}

  int64_t lightest() {
    const bool has_inner = inner_ < static_cast<int64_t>(weight_.size());
    const bool leaf_first = leaf_ >= 0 && (!has_inner || weight_[leaf_] < weight_[inner_]);
    return leaf_first ? leaf_-- : inner_++;
  }
  void add(int64_t) {}

 private:
  const std::vector<int64_t>& weight_;
  int64_t leaf_;   // words, the rarest first
  int64_t inner_;  // inner nodes, in the order of their making
};

// The operations of Python's heapq, step by step: with equal counts the order of the swaps decides.
class HeapMerger {
 public:
  explicit HeapMerger(const std::vector<int64_t>& weight) : weight_(weight), heap_(weight.size()) {
    for (size_t i = 0; i < heap_.size(); ++i) heap_[i] = static_cast<int64_t>(i);
    for (size_t i = heap_.size() / 2; i-- > 0;) sink(i);
  }

  int64_t lightest() {
    const int64_t last = heap_.back();
    heap_.pop_back();
    if (heap_.empty()) return last;
    const int64_t top = heap_[0];
    heap_[0] = last;
    sink(0);
    return top;
  }
  void add(int64_t node) {
    heap_.push_back(node);
    rise(0, heap_.size() - 1);
  }

 private:
  bool less(int64_t a, int64_t b) const { return weight_[a] < weight_[b]; }

  void rise(size_t top, size_t position) {
    const int64_t node = heap_[position];
    while (position > top) {
      const size_t parent = (position - 1) / 2;
      if (!less(node, heap_[parent])) break;
      heap_[position] = heap_[parent];
      position = parent;
    }
    heap_[position] = node;
  }

  // Moves the hole down to a leaf along the lighter children, then lets the node rise from there.
  void sink(size_t position) {
    const size_t top = position;
    const int64_t node = heap_[position];
    for (size_t child = 2 * position + 1; child < heap_.size(); child = 2 * position + 1) {
      const size_t right = child + 1;
      if (right < heap_.size() && !less(heap_[child], heap_[right])) child = right;
      heap_[position] = heap_[child];
      position = child;
    }
    heap_[position] = node;
    rise(top, position);
  }

  const std::vector<int64_t>& weight_;
  std::vector<int64_t> heap_;
};

// parent * 2 + bit of every node but the root.
template <class Merger>
std::vector<int64_t> merge_all(const std::vector<int64_t>& counts) {
  const auto words = static_cast<int64_t>(counts.size());
  std::vector<int64_t> weight = counts;
  weight.reserve(2 * words - 1);
  std::vector<int64_t> up(2 * words - 1);
  Merger merger(weight);
  for (int64_t node = words; node < 2 * words - 1; ++node) {
    const int64_t first = merger.lightest();
    const int64_t second = merger.lightest();
    up[first] = (node - words) * 2;
    up[second] = (node - words) * 2 + 1;
    weight.push_back(weight[first] + weight[second]);
    merger.add(node);
  }
  return up;
}

void check(const std::vector<int64_t>& counts) {
  if (counts.empty()) throw std::invalid_argument("counts is empty; expected at least one word");
  if (static_cast<int64_t>(counts.size()) > kMaxWords) {
    throw std::invalid_argument("counts has more than 2**30 words");
  }
  for (size_t w = 0; w < counts.size(); ++w) {
    if (counts[w] < 1 || (w > 0 && counts[w] > counts[w - 1])) {
      throw std::invalid_argument("counts[" + std::to_string(w) + "] is " +
                                  std::to_string(counts[w]) +
                                  "; expected positive counts that never rise");
    }
  }
}

}  // namespace

HuffmanPaths huffman_paths(const std::vector<int64_t>& counts, HuffmanTies ties) {
  check(counts);
  const auto words = static_cast<int64_t>(counts.size());
  const std::vector<int64_t> up =
      ties == HuffmanTies::queue ? merge_all<QueueMerger>(counts) : merge_all<HeapMerger>(counts);
  const int64_t root = 2 * words - 2;
  HuffmanPaths paths;
  paths.offsets.reserve(words + 1);
  paths.offsets.push_back(0);
  for (int64_t word = 0; word < words; ++word) {
    const auto start = static_cast<int64_t>(paths.path.size());
    for (int64_t node = word; node != root; node = words + up[node] / 2) {
      paths.path.push_back(static_cast<int32_t>(up[node]));
    }
    std::reverse(paths.path.begin() + start, paths.path.end());
    paths.offsets.push_back(static_cast<int64_t>(paths.path.size()));
  }
  return paths;
}

}  // namespace ptmkernels
