// Vocabulary counting over whitespace-separated UTF-8 text.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

namespace ptmkernels {

// A file that the operating system did not let us read; `code` is its errno.
struct FileError {
  int code;
  std::string path;
};

class VocabularyCounter {
 public:
  // Counts the words of one file, read in blocks. Throws std::invalid_argument with file and byte
  // offset where the text is not UTF-8, FileError (OSError in Python) where it cannot be read.
  void add_file(const std::string& path);

  int64_t total() const { return total_; }

  // Words of at least min_count occurrences: falling counts, then code-point order.
  std::vector<std::pair<std::string, int64_t>> most_common(int64_t min_count) const;

 private:
  struct Hash : std::hash<std::string_view> {
    using is_transparent = void;
  };

  void add_words(std::string_view text);

  std::unordered_map<std::string, int64_t, Hash, std::equal_to<>> counts_;
  int64_t total_ = 0;
};

}  // namespace ptmkernels
