#include "corpus/vocabulary.h"

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <memory>
#include <stdexcept>

#include "corpus/utf8.h"

namespace ptmkernels {
namespace {

constexpr size_t kBlock = size_t{1} << 20;

bool is_space(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

struct Close {
  void operator()(std::FILE* file) const { std::fclose(file); }
};

[[noreturn]] void throw_io_error(const std::string& path) { throw FileError{errno, path}; }

}  // namespace

void VocabularyCounter::add_words(std::string_view text) {
  size_t begin = 0;
  while (begin < text.size()) {
    while (begin < text.size() && is_space(text[begin])) ++begin;
    size_t end = begin;
    while (end < text.size() && !is_space(text[end])) ++end;
    if (end == begin) break;
    const std::string_view word = text.substr(begin, end - begin);
    if (auto it = counts_.find(word); it != counts_.end()) {
      ++it->second;
    } else {
      counts_.emplace(word, 1);
    }
    ++total_;
    begin = end;
  }
}

void VocabularyCounter::add_file(const std::string& path) {
  std::unique_ptr<std::FILE, Close> file(std::fopen(path.c_str(), "rb"));
  if (!file) throw_io_error(path);
  std::string text;        // the unfinished word of the last block, then the next block
  int64_t text_start = 0;  // byte offset of text[0] in the file
  for (;;) {
    const size_t kept = text.size();
    text.resize(kept + kBlock);
    const size_t read = std::fread(text.data() + kept, 1, kBlock, file.get());
    if (std::ferror(file.get())) throw_io_error(path);
    text.resize(kept + read);
    const bool last = read == 0;
    size_t end = text.size();
    while (!last && end > 0 && !is_space(text[end - 1])) --end;
    const std::string_view words(text.data(), end);
    if (const size_t bad = find_invalid_utf8(words); bad != std::string_view::npos) {
      throw std::invalid_argument(path + ": not UTF-8 at byte " +
                                  std::to_string(text_start + static_cast<int64_t>(bad)));
    }
    add_words(words);
    text.erase(0, end);
    text_start += static_cast<int64_t>(end);
    if (last) return;
  }
}

std::vector<std::pair<std::string, int64_t>> VocabularyCounter::most_common(
    int64_t min_count) const {
  std::vector<std::pair<std::string, int64_t>> words;
  for (const auto& entry : counts_) {
    if (entry.second >= min_count) words.emplace_back(entry);
  }
  std::sort(words.begin(), words.end(), [](const auto& a, const auto& b) {
    return a.second != b.second ? a.second > b.second : a.first < b.first;
  });
  return words;
}

}  // namespace ptmkernels
