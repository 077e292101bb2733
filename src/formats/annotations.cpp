#include "formats/annotations.h"

#include <expat.h>

#include <array>
#include <charconv>
#include <cmath>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>

#include "core/file.h"
#include "core/json.h"

namespace lathe {
namespace {

constexpr int64_t kMaxCocoFile = int64_t{1} << 30;

}  // namespace

CocoFile parse_coco(std::span<const uint8_t> bytes, const std::string& name) {
  nlohmann::json j = parse_json(bytes, name);
  CocoFile coco;
  std::map<int64_t, size_t> pictures;
  std::map<int64_t, std::pair<int64_t, std::string>> classes;
  try {
    std::map<int64_t, std::string> files;
    for (const auto& image : j.at("images")) files[image.at("id").get<int64_t>()] = image.at("file_name").get<std::string>();
    for (auto& [number, file] : files) {
      pictures[number] = coco.pictures.size();
      coco.pictures.push_back({std::move(file), {}});
    }
    for (const auto& category : j.at("categories"))
      classes[category.at("id").get<int64_t>()] = {0, category.value("name", std::to_string(category.at("id").get<int64_t>()))};
    for (auto& [number, entry] : classes) {
      entry.first = static_cast<int64_t>(coco.classes.size());
      coco.classes.push_back(entry.second);
    }
    for (const auto& a : j.at("annotations")) {
      auto picture = pictures.find(a.at("image_id").get<int64_t>());
      if (picture == pictures.end()) continue;
      auto category = classes.find(a.at("category_id").get<int64_t>());
      if (category == classes.end())
        fail(ErrorKind::kInput, "{}: an annotation has category {}, which is not listed", name, a.at("category_id").dump());
      auto [x, y, width, height] = a.at("bbox").get<std::array<float, 4>>();
      if (!std::isfinite(x + width) || !std::isfinite(y + height))
        fail(ErrorKind::kInput, "{}: an annotation has the box {}, whose numbers are too large", name, a.at("bbox").dump().substr(0, 80));
      if (width <= 0 || height <= 0) continue;
      coco.pictures[picture->second].boxes.push_back({x, y, x + width, y + height, category->second.first, a.value("iscrowd", 0) != 0});
    }
  } catch (const nlohmann::json::exception& e) {
    fail(ErrorKind::kInput, "{}: is no COCO file of boxes: {:.200}", name, e.what());
  }
  return coco;
}

CocoFile read_coco(const std::string& path) { return parse_coco(read_file(path, kMaxCocoFile), path); }

namespace {

constexpr int64_t kMaxVocFile = 16 << 20;
constexpr size_t kMaxXmlDepth = 32, kMaxXmlText = 4096;
constexpr int64_t kMaxObjects = 100'000;

// Collects what stands in <annotation>. Exceptions may not pass expat's C frames: what goes wrong is kept and the parser stopped.
class VocReader {
 public:
  explicit VocReader(const std::string& name) : name_(name), parser_(XML_ParserCreate(nullptr), XML_ParserFree) {
    require(parser_ != nullptr, "expat cannot be started");
    XML_SetUserData(parser_.get(), this);
    XML_SetElementHandler(parser_.get(), [](void* self, const char* tag, const char**) { of(self).guarded([&] { of(self).start(tag); }); },
                          [](void* self, const char* tag) { of(self).guarded([&] { of(self).end(tag); }); });
    XML_SetCharacterDataHandler(parser_.get(), [](void* self, const char* text, int size) {
      of(self).guarded([&] { of(self).characters({text, static_cast<size_t>(size)}); });
    });
    // Annotations declare none: entities are how small XML files become large.
    XML_SetEntityDeclHandler(parser_.get(), [](void* self, const char*, int, const char*, int, const char*, const char*, const char*,
                                               const char*) { of(self).guarded([&] { of(self).broken("it declares an entity"); }); });
  }

  VocPicture read(std::span<const uint8_t> bytes) {
    if (bytes.size() > static_cast<size_t>(kMaxVocFile))
      fail(ErrorKind::kInput, "{}: has {} bytes, more than the limit of {}", name_, bytes.size(), kMaxVocFile);
    XML_Status status = XML_Parse(parser_.get(), reinterpret_cast<const char*>(bytes.data()), static_cast<int>(bytes.size()), XML_TRUE);
    if (failure_) std::rethrow_exception(failure_);
    if (status != XML_STATUS_OK) broken(XML_ErrorString(XML_GetErrorCode(parser_.get())));
    if (!annotation_) broken("it is no <annotation>");
    return std::move(picture_);
  }

 private:
  static VocReader& of(void* self) { return *static_cast<VocReader*>(self); }
  template <class Body>
  void guarded(Body&& body) {
    if (failure_) return;
    try {
      body();
    } catch (...) {
      failure_ = std::current_exception();
      XML_StopParser(parser_.get(), XML_FALSE);
    }
  }
  [[noreturn]] void broken(const std::string& what) const {
    fail(ErrorKind::kInput, "{}, line {}: broken annotation: {}", name_, XML_GetCurrentLineNumber(parser_.get()), what);
  }

  // A class's name in full: "annotation/object/bndbox/xmin".
  bool at(std::string_view path) const { return path_ == path; }
  void start(std::string_view tag) {
    if (lengths_.size() >= kMaxXmlDepth) broken(fmt::format("it is nested more than {} deep", kMaxXmlDepth));
    lengths_.push_back(path_.size());
    if (!path_.empty()) path_ += '/';
    path_ += tag;
    text_.clear();
    if (at("annotation")) annotation_ = true;
    if (at("annotation/object")) {
      if (static_cast<int64_t>(picture_.objects.size()) >= kMaxObjects) broken(fmt::format("it lists more than {} objects", kMaxObjects));
      picture_.objects.push_back({});
      box_ = {NAN, NAN, NAN, NAN};
    }
  }
  void characters(std::string_view text) {
    if (text_.size() + text.size() > kMaxXmlText) broken(fmt::format("a text is longer than {} bytes", kMaxXmlText));
    text_ += text;
  }
  std::string trimmed() const {
    size_t first = text_.find_first_not_of(" \t\r\n"), last = text_.find_last_not_of(" \t\r\n");
    return first == std::string::npos ? "" : text_.substr(first, last - first + 1);
  }
  double number(const std::string& tag) const {
    std::string text = trimmed();
    double value = NAN;
    auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc() || end != text.data() + text.size() || !(std::fabs(value) < 1e9))
      broken(fmt::format("<{}> is '{:.40}', expected a number", tag, text));
    return value;
  }
  void end(const std::string& tag) {
    if (at("annotation/filename")) picture_.file = trimmed();
    else if (at("annotation/size/width")) picture_.width = static_cast<int64_t>(number(tag));
    else if (at("annotation/size/height")) picture_.height = static_cast<int64_t>(number(tag));
    else if (at("annotation/object/name")) picture_.objects.back().name = trimmed();
    else if (at("annotation/object/difficult")) picture_.objects.back().difficult = number(tag) != 0;
    else if (at("annotation/object/bndbox/xmin")) box_[0] = number(tag);
    else if (at("annotation/object/bndbox/ymin")) box_[1] = number(tag);
    else if (at("annotation/object/bndbox/xmax")) box_[2] = number(tag);
    else if (at("annotation/object/bndbox/ymax")) box_[3] = number(tag);
    else if (at("annotation/object")) finish_object();
    path_.resize(lengths_.back());
    lengths_.pop_back();
    text_.clear();
  }
  void finish_object() {
    VocPicture::Object& object = picture_.objects.back();
    if (object.name.empty()) broken("an <object> has no <name>");
    for (double side : box_)
      if (std::isnan(side)) broken(fmt::format("the {} has no whole <bndbox>", object.name));
    object.x0 = static_cast<float>(box_[0] - 1);
    object.y0 = static_cast<float>(box_[1] - 1);
    object.x1 = static_cast<float>(box_[2]);
    object.y1 = static_cast<float>(box_[3]);
    if (object.x1 <= object.x0 || object.y1 <= object.y0) broken(fmt::format("the box of the {} has no area", object.name));
  }

  const std::string& name_;
  std::unique_ptr<std::remove_pointer_t<XML_Parser>, decltype(&XML_ParserFree)> parser_;
  std::exception_ptr failure_;
  VocPicture picture_;
  std::array<double, 4> box_{};
  std::string path_, text_;
  std::vector<size_t> lengths_;  // of the path around each open element
  bool annotation_ = false;
};

}  // namespace

VocPicture parse_voc(std::span<const uint8_t> bytes, const std::string& name) { return VocReader(name).read(bytes); }

VocPicture read_voc(const std::string& path) { return parse_voc(read_file(path, kMaxVocFile), path); }

}  // namespace lathe
