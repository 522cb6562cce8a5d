#include "corpus/subwords.h"

#include <algorithm>
#include <string>

namespace ptmkernels {
namespace {

bool continues(char c) { return (static_cast<unsigned char>(c) & 0xC0) == 0x80; }

}  // namespace

uint32_t fasttext_hash(std::string_view text) {
  uint32_t h = 2166136261u;
  for (const char c : text) {
    h ^= static_cast<uint32_t>(static_cast<int8_t>(c));
    h *= 16777619u;
  }
  return h;
}

void subword_buckets(std::string_view word, const SubwordOptions& options,
                     std::vector<int32_t>& out) {
  if (word == "</s>") return;  // the end of a line, which is no word
  std::string marked(1, '<');
  marked.append(word).push_back('>');
  const size_t size = marked.size();
  for (size_t begin = 0; begin < size; ++begin) {
    if (continues(marked[begin])) continue;
    size_t end = begin;
    for (int n = 1; n <= options.max_n && end < size; ++n) {
      do {
        ++end;
      } while (end < size && continues(marked[end]));
      const bool mark_alone = n == 1 && (begin == 0 || end == size);
      if (n < options.min_n || mark_alone) continue;
      const uint32_t h = fasttext_hash(std::string_view(marked).substr(begin, end - begin));
      out.push_back(static_cast<int32_t>(h % static_cast<uint64_t>(options.bucket)));
    }
  }
}

void word_ngram_buckets(const std::vector<int32_t>& hashes, int n, int64_t bucket,
                        std::vector<int32_t>& out) {
  constexpr uint64_t kMultiplier = 116049371;
  for (size_t i = 0; i < hashes.size(); ++i) {
    auto h = static_cast<uint64_t>(static_cast<int64_t>(hashes[i]));
    const size_t end = std::min(hashes.size(), i + static_cast<size_t>(n));
    for (size_t j = i + 1; j < end; ++j) {
      h = h * kMultiplier + static_cast<uint64_t>(static_cast<int64_t>(hashes[j]));
      out.push_back(static_cast<int32_t>(h % static_cast<uint64_t>(bucket)));
    }
  }
}

}  // namespace ptmkernels
