#include "corpus/vocabulary.h"

#include <algorithm>
#include <stdexcept>

namespace ptmkernels {

void VocabularyCounter::prune(WordTable& table, int64_t& limit) const {
  while (max_words_ > 0 && table.size() > max_words_) {
    ++limit;
    WordTable kept;
    table.for_each([&](std::string_view word, int64_t count) {
      if (count > limit) kept[word] = count;
    });
    table = std::move(kept);
  }
}

void VocabularyCounter::add_file(const std::string& path, int threads, const Progress& progress) {
  struct Share {
    WordTable table;
    int64_t words = 0, lines = 0, pruned = 0;
  };
  std::vector<Share> shares(std::max(threads, 1));
  for_each_block(path, threads, progress, [&](int thread, const TextBlock& block) {
    Share& share = shares[thread];
    constexpr int kBatch = 256;
    std::string_view batch[kBatch];
    int waiting = 0;
    auto flush = [&] {
      share.table.increment(batch, waiting);
      share.words += waiting;
      waiting = 0;
    };
    for_each_word(
        block.text,
        [&](std::string_view word) {
          batch[waiting++] = word;
          if (waiting == kBatch) flush();
        },
        [&] { ++share.lines; });
    flush();
    prune(share.table, share.pruned);
  });
  for (const Share& share : shares) {
    share.table.for_each([&](std::string_view word, int64_t count) { table_[word] += count; });
    total_ += share.words;
    lines_ += share.lines;
    pruned_ = std::max(pruned_, share.pruned);
  }
  prune(table_, pruned_);
}

void VocabularyCounter::add_words(const std::vector<std::string_view>& words) {
  for (const std::string_view word : words) {
    if (word.empty()) continue;
    ++table_[word];
    ++total_;
  }
  ++lines_;
  prune(table_, pruned_);
}

std::vector<std::pair<std::string, int64_t>> VocabularyCounter::most_common(
    int64_t min_count) const {
  std::vector<std::pair<std::string, int64_t>> words;
  table_.for_each([&](std::string_view word, int64_t count) {
    if (count >= min_count) words.emplace_back(word, count);
  });
  std::sort(words.begin(), words.end(), [](const auto& a, const auto& b) {
    return a.second != b.second ? a.second > b.second : a.first < b.first;
  });
  return words;
}

Encoder::Encoder(const std::vector<std::string>& words) {
  for (size_t i = 0; i < words.size(); ++i) {
    if (words[i].empty()) throw std::invalid_argument("words holds an empty word");
    int64_t& id = table_[words[i]];
    if (table_.size() != static_cast<int64_t>(i) + 1) {
      throw std::invalid_argument("words holds '" + words[i] + "' twice");
    }
    id = static_cast<int64_t>(i);
  }
}

void Encoder::encode(std::string_view text, int32_t line_end, bool keep_empty,
                     std::vector<int32_t>& ids) const {
  for_each_word(
      text,
      [&](std::string_view word) {
        if (const int64_t* id = table_.find(word)) ids.push_back(static_cast<int32_t>(*id));
      },
      [&] {
        if (keep_empty || ids.empty() || ids.back() != line_end) ids.push_back(line_end);
      });
}

void Encoder::encode_words(const std::vector<std::string_view>& words, int32_t line_end,
                           std::vector<int32_t>& ids) const {
  const size_t before = ids.size();
  for (const std::string_view word : words) {
    if (word.empty()) continue;
    if (const int64_t* id = table_.find(word)) ids.push_back(static_cast<int32_t>(*id));
  }
  if (ids.size() > before) ids.push_back(line_end);
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
  // The last line ends with the text, whether or not a newline follows it.
  if (!at_line_start) {
    if (std::fwrite(&line_end, sizeof(line_end), 1, file.get()) != 1) throw_file_error(output);
    ++total;
  }
  if (std::fflush(file.get())) throw_file_error(output);
  return total;
}

}  // namespace ptmkernels
