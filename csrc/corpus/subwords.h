// Character n-grams hashed to buckets, as fastText does it (Bojanowski et al. 2017).
#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

namespace ptmkernels {

struct SubwordOptions {
  int min_n;       // shortest n-gram, in characters
  int max_n;       // longest
  int64_t bucket;  // number of hash buckets
};

// 32-bit FNV-1a with each byte sign-extended before the exclusive or, as fastText has it.
uint32_t fasttext_hash(std::string_view text);

// Appends the buckets of the n-grams of "<word>": of min_n to max_n characters, without the single
// boundary marks. The order is by first character, then by length.
void subword_buckets(std::string_view word, const SubwordOptions& options,
                     std::vector<int32_t>& out);

// Appends the buckets of the word n-grams (2 to n words) of a line, given the words' hashes.
void word_ngram_buckets(const std::vector<int32_t>& hashes, int n, int64_t bucket,
                        std::vector<int32_t>& out);

}  // namespace ptmkernels
