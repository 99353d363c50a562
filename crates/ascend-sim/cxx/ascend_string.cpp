// The simulator's `ge::AscendString`: what libmetadef.so has of it.
#define ROPEWAY_HIXL_NEWER
#include "hixl.hpp"

#include <functional>
#include <string>

namespace ge {

class Text : public std::string {
 public:
  using std::string::string;
};

AscendString::AscendString(const char *text) : text_(text == nullptr ? nullptr : std::make_shared<Text>(text)) {}

AscendString::AscendString(const char *text, std::size_t length)
    : text_(text == nullptr ? nullptr : std::make_shared<Text>(text, length)) {}

const char *AscendString::GetString() const { return text_ == nullptr ? nullptr : text_->c_str(); }

std::size_t AscendString::GetLength() const { return text_ == nullptr ? 0 : text_->length(); }

// No text comes before every text.
bool AscendString::operator<(const AscendString &other) const {
  if (text_ == nullptr || other.text_ == nullptr) {
    return text_ == nullptr && other.text_ != nullptr;
  }
  return static_cast<const std::string &>(*text_) < static_cast<const std::string &>(*other.text_);
}

}  // namespace ge
