#include "corpus/vocabulary.h"

#include <algorithm>
#include <stdexcept>

namespace ptmkernels {

void VocabularyCounter::prune(WordTable& table, int64_t& limit) const {
  while (max_words_ > 0 && table.size() > max_words_) table.prune(++limit);
}

void VocabularyCounter::add_file(const std::string& path, int threads, const Progress& progress) {
  struct Share {
    WordTable table;
    int64_t words = 0, lines = 0, pruned = 0;
  };
  std::vector<Share> shares(std::max(threads, 1));
  for_each_block(path, threads, progress, [&](int thread, const TextBlock& block) {
    Share& share = shares[thread];
    for_each_word(
        block.text,
        [&](std::string_view word) {
          share.table.add(word, 1);
          ++share.words;
        },
        [&] { ++share.lines; });
    prune(share.table, share.pruned);
  });
  for (const Share& share : shares) {
    for (int64_t w = 0; w < share.table.size(); ++w) {
      table_.add(share.table.word(w), share.table.count(w));
    }
    total_ += share.words;
    lines_ += share.lines;
    pruned_ = std::max(pruned_, share.pruned);
  }
  prune(table_, pruned_);
}

void VocabularyCounter::add_line(std::string_view text) {
  for_each_word(
      text,
      [&](std::string_view word) {
        table_.add(word, 1);
        ++total_;
      },
      [] {});
  ++lines_;
  prune(table_, pruned_);
}

std::vector<std::pair<std::string, int64_t>> VocabularyCounter::most_common(
    int64_t min_count) const {
  std::vector<std::pair<std::string, int64_t>> words;
  for (int64_t w = 0; w < table_.size(); ++w) {
    if (table_.count(w) >= min_count) words.emplace_back(table_.word(w), table_.count(w));
  }
  std::sort(words.begin(), words.end(), [](const auto& a, const auto& b) {
    return a.second != b.second ? a.second > b.second : a.first < b.first;
  });
  return words;
}

Encoder::Encoder(const std::vector<std::string>& words) {
  for (const std::string& word : words) {
    const int64_t before = table_.size();
    table_.add(word, 1);
    if (table_.size() == before) throw std::invalid_argument("words holds '" + word + "' twice");
  }
}

void Encoder::encode(std::string_view text, int32_t line_end, bool keep_empty,
                     std::vector<int32_t>& ids) const {
  for_each_word(
      text,
      [&](std::string_view word) {
        if (const int64_t id = table_.find(word); id >= 0) ids.push_back(static_cast<int32_t>(id));
      },
      [&] {
        if (keep_empty || ids.empty() || ids.back() != line_end) ids.push_back(line_end);
      });
}

int64_t Encoder::encode_file(const std::string& path, const std::string& output, int32_t line_end,
                             bool keep_empty, int threads, const Progress& progress) const {
  const File file = open_file(output, "wb");
  int64_t total = 0;
  bool at_line_start = true;
  std::vector<std::vector<int32_t>> ids(std::max(threads, 1));
  auto work = [&](int thread, const TextBlock& block) {
    ids[thread].clear();
    encode(block.text, line_end, keep_empty, ids[thread]);
  };
  auto commit = [&](int thread, const TextBlock&) {
    const std::vector<int32_t>& own = ids[thread];
    if (own.empty()) return;
    const size_t skip = !keep_empty && at_line_start && own[0] == line_end;
    const size_t count = own.size() - skip;
    if (std::fwrite(own.data() + skip, sizeof(int32_t), count, file.get()) != count) {
      throw_file_error(output);
    }
    total += static_cast<int64_t>(count);
    at_line_start = own.back() == line_end;
  };
  for_each_block(path, threads, progress, work, commit);
  if (std::fflush(file.get())) throw_file_error(output);
  return total;
}

}  // namespace ptmkernels
