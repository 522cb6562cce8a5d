// Huffman codes over word counts, for the hierarchical softmax.
#pragma once

#include <cstdint>
#include <vector>

namespace ptmkernels {

enum class HuffmanTies {
  queue,  // word2vec.c: the two-pointer build, an inner node goes before a word of the same count
  heap,   // gensim: a binary heap with Python's heapq operations
};

struct HuffmanPaths {
  std::vector<int64_t>
      offsets;  // (V + 1): the path of word w is path[offsets[w]] to path[offsets[w + 1]]
  std::vector<int32_t> path;  // from the root: inner node * 2 + code bit; the root is node V - 2
};

// counts: falling, all positive. Throws std::invalid_argument otherwise.
HuffmanPaths huffman_paths(const std::vector<int64_t>& counts, HuffmanTies ties);

}  // namespace ptmkernels
