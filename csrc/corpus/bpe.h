// Byte-pair encoding of words (Sennrich et al. 2016), merge for merge as subword-nmt 0.3.8 does it.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

namespace ptmkernels {

using Merge = std::pair<std::string, std::string>;

// Learns up to `merges` merges from (word, count) pairs. The last symbol of a word bears "</w>". Of
// several most frequent pairs the lexicographically largest is merged. Stops where no pair has
// min_frequency. progress: as for_each_block, with the merges done.
std::vector<Merge> learn_bpe(const std::vector<std::pair<std::string, int64_t>>& words,
                             int64_t merges, int64_t min_frequency,
                             const std::function<void(int64_t)>& progress);

class BytePairEncoder {
 public:
  explicit BytePairEncoder(const std::vector<Merge>& merges);

  // The pieces of a word, of which the last bears no mark.
  std::vector<std::string> split(const std::string& word) const;

 private:
  std::unordered_map<std::string, int64_t> ranks_;  // "left right" to the place in the list
};

}  // namespace ptmkernels
