// Vocabulary counting over whitespace-separated UTF-8 text, and the encoding of text to word ids.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "corpus/text_blocks.h"
#include "corpus/word_table.h"

namespace ptmkernels {

class VocabularyCounter {
 public:
  // A table of more than max_words words drops its rarest, as word2vec.c does; 0 = never.
  explicit VocabularyCounter(int64_t max_words) : max_words_(max_words) {}

  // Counts the words of one file. Throws as for_each_block.
  void add_file(const std::string& path, int threads, const Progress& progress);

  // Counts words as they are, white space in them included; empty ones are none.
  void add_words(const std::vector<std::string_view>& words);

  int64_t total() const { return total_; }
  int64_t lines() const { return lines_; }

  // Counts up to this one may have been dropped from the table, or counted too low: 0 = none.
  int64_t pruned() const { return pruned_; }

  // Words of at least min_count occurrences: falling counts, then code-point order.
  std::vector<std::pair<std::string, int64_t>> most_common(int64_t min_count) const;

 private:
  void prune(WordTable& table, int64_t& limit) const;

  int64_t max_words_;
  WordTable table_;
  int64_t total_ = 0;
  int64_t lines_ = 0;
  int64_t pruned_ = 0;
};

class Encoder {
 public:
  // Id of words[i] is i.
  explicit Encoder(const std::vector<std::string>& words);

  // Appends the ids of the known words of `text`; each newline appends `line_end`, unless that
  // would give an empty sentence (keep_empty = false).
  void encode(std::string_view text, int32_t line_end, bool keep_empty,
              std::vector<int32_t>& ids) const;

  // Appends the ids of the known words among `words`, then line_end, unless that would give an
  // empty sentence.
  void encode_words(const std::vector<std::string_view>& words, int32_t line_end,
                    std::vector<int32_t>& ids) const;

  // Writes the ids of a text file as little-endian int32 and returns their number.
  int64_t encode_file(const std::string& path, const std::string& output, int32_t line_end,
                      bool keep_empty, int threads, const Progress& progress) const;

 private:
  WordTable table_;
};

}  // namespace ptmkernels
