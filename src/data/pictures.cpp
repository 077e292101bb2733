// Sets of picture files: class folders, tables, COCO, Pascal VOC, maps of classes.
#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>

#include "data/sources.h"
#include "formats/image.h"
#include "formats/label_table.h"
#include "formats/picture_folder.h"

namespace lathe {
namespace {

namespace fs = std::filesystem;

struct Item {
  std::string path;
  int64_t label = -1;
  std::vector<TrueBox> boxes = {};
  std::string mask = {};
};

// Rec. ITU-R BT.601: what JPEG and Pillow take for grey.
uint8_t grey_of(const uint8_t* rgb) { return static_cast<uint8_t>((19595 * rgb[0] + 38470 * rgb[1] + 7471 * rgb[2] + 32768) >> 16); }

class PictureSet : public TrainingSet {
 public:
  PictureSet(std::vector<Item> items, std::vector<std::string> classes, TrainingTruth truth, bool grey)
      : items_(std::move(items)), grey_(grey) {
    classes_ = std::move(classes);
    truth_ = truth;
  }
  size_t size() const override { return items_.size(); }
  int64_t label(size_t i) const override { return items_[i].label; }
  std::string name(size_t i) const override { return items_[i].path; }
  bool in_memory() const override { return false; }

  Sample sample(size_t i) const override {
    const Item& item = items_[i];
    Image image = read_image(item.path);
    const int64_t plane = int64_t{image.width} * image.height;
    Sample s{Tensor(DType::kU8, {grey_ ? 1 : 3, image.height, image.width}), item.label, item.boxes, {}};
    auto* to = s.input.data<uint8_t>();
    const uint8_t* rgb = image.rgb.data();
    for (int64_t p = 0; p < plane; ++p, rgb += 3) {
      if (grey_) {
        to[p] = grey_of(rgb);
      } else {
        for (int c = 0; c < 3; ++c) to[c * plane + p] = rgb[c];
      }
    }
    if (!item.mask.empty()) {
      LabelMap map = read_label_map(item.mask);
      if (map.width != image.width || map.height != image.height)
        fail(ErrorKind::kInput, "{}: has {} x {} pixels, its picture {} x {}", item.mask, map.width, map.height, image.width, image.height);
      s.mask = Tensor(DType::kU8, {map.height, map.width});
      std::copy(map.labels.begin(), map.labels.end(), s.mask.data<uint8_t>());
    }
    return s;
  }

 private:
  std::vector<Item> items_;
  bool grey_;
};

std::shared_ptr<const TrainingSet> picture_set(std::vector<Item> items, std::vector<std::string> classes, TrainingTruth truth, bool grey) {
  return std::make_shared<PictureSet>(std::move(items), std::move(classes), truth, grey);
}

bool grey_option(DataSpec& spec) {
  std::string colors = spec.word("colors", "RGB");
  if (colors != "RGB" && colors != "gray") fail(ErrorKind::kUsage, "data {}: colors must be RGB or gray, found '{}'", spec.text(), colors);
  return colors == "gray";
}

std::string folder_in(const fs::path& root, std::initializer_list<const char*> names) {
  for (const char* name : names)
    if (fs::is_directory(root / name)) return (root / name).string();
  return "";
}

std::vector<std::string> lines_of(const std::string& path) {
  std::ifstream file(path);
  if (!file) fail(ErrorKind::kInput, "{}: cannot be opened", path);
  std::vector<std::string> lines;
  for (std::string line; std::getline(file, line);) {
    if (size_t end = line.find_first_of(" \t\r"); end != std::string::npos) line.resize(end);
    if (!line.empty()) lines.push_back(line);
  }
  return lines;
}

// --- class folders ---------------------------------------------------------------------------------

struct Labelled {
  std::vector<Item> items;
  std::vector<std::string> classes;
};

Labelled read_class_folders(const std::string& folder) {
  Labelled result;
  for (const ClassFolder& c : class_folders(folder)) {
    std::vector<fs::path> files = files_of(c.path, is_picture);
    if (files.empty()) fail(ErrorKind::kInput, "{}: is the folder of a class and holds no picture (.jpg, .png, .webp)", c.path.string());
    if (c.label > 1'000'000) fail(ErrorKind::kInput, "{}: a class has a number of at most 1000000", c.path.string());
    if (static_cast<size_t>(c.label) >= result.classes.size()) result.classes.resize(static_cast<size_t>(c.label) + 1);
    if (!result.classes[static_cast<size_t>(c.label)].empty())
      fail(ErrorKind::kInput, "{}: is class {}, and so is {}", c.path.string(), c.label, result.classes[static_cast<size_t>(c.label)]);
    result.classes[static_cast<size_t>(c.label)] = c.name;
    for (const fs::path& f : files) result.items.push_back({f.string(), c.label});
  }
  for (size_t i = 0; i < result.classes.size(); ++i)
    if (result.classes[i].empty()) result.classes[i] = std::to_string(i);
  return result;
}

}  // namespace

FoundParts open_pictures(const std::string& folder, DataSpec& spec) {
  const bool grey = grey_option(spec);
  const std::string train = folder_in(folder, {"train"});
  FoundParts found;
  if (!train.empty()) {
    auto part = [&](const std::string& path) -> std::shared_ptr<const TrainingSet> {
      if (path.empty()) return nullptr;
      Labelled l = read_class_folders(path);
      if (l.items.empty()) fail(ErrorKind::kInput, "{}: holds no picture in one subfolder a class", path);
      return picture_set(std::move(l.items), std::move(l.classes), TrainingTruth::kClass, grey);
    };
    found.train = part(train);
    found.validation = part(folder_in(folder, {"val", "valid", "validation"}));
    found.test = part(folder_in(folder, {"test"}));
    found.what = "pictures in folders of train/";
    return found;
  }
  std::vector<fs::path> pictures = files_of(folder, is_picture);
  std::vector<Item> items;
  if (pictures.empty()) {
    Labelled l = read_class_folders(folder);
    if (l.items.empty())
      fail(ErrorKind::kInput,
           "data {}: found no data: neither pictures in one subfolder a class, nor train/ with such, nor IDX, CIFAR, COCO or VOC files",
           folder);
    found.train = picture_set(std::move(l.items), std::move(l.classes), TrainingTruth::kClass, grey);
    found.what = "pictures in one folder a class";
    return found;
  }
  const fs::path table = fs::path(folder) / "labels.tsv", maps = fs::path(folder) / "labels";
  if (!fs::exists(table) && !fs::is_directory(maps))
    fail(ErrorKind::kInput,
         "data {}: {} pictures without labels: expected one subfolder a class, labels.tsv, labels.json (COCO) or labels/ with maps", folder,
         pictures.size());
  const int64_t named = spec.integer("classes", 0, 1, 1'000'000);
  if (fs::exists(table)) {
    std::map<std::string, Item> by_name;
    for (const fs::path& p : pictures) by_name[p.filename().string()] = {p.string()};
    std::set<std::string> labelled;
    int64_t most = -1;
    bool boxes = false;
    for (const LabelRow& row : read_label_table(table.string())) {
      auto it = by_name.find(row.file);
      if (it == by_name.end()) fail(ErrorKind::kInput, "{} names '{}', which is no picture in {}", table.string(), row.file, folder);
      most = std::max(most, row.label);
      labelled.insert(row.file);
      boxes = row.box.has_value();
      if (boxes) it->second.boxes.push_back({(*row.box)[0], (*row.box)[1], (*row.box)[2], (*row.box)[3], row.label});
      else it->second.label = row.label;
    }
    // A table of classes says which pictures are meant; in one of boxes, pictures that it does not name hold no object.
    for (auto& [name, item] : by_name)
      if (boxes || labelled.contains(name)) items.push_back(std::move(item));
    if (named > 0 && most >= named) fail(ErrorKind::kInput, "{}: has class {}, but classes={} was given", table.string(), most, named);
    most = std::max(most, named - 1);
    if (most > 1'000'000) fail(ErrorKind::kInput, "{}: a class has a number of at most 1000000, found {}", table.string(), most);
    found.what = boxes ? "pictures with boxes in labels.tsv" : "pictures with classes in labels.tsv";
    found.train = picture_set(std::move(items), numbered(most + 1), boxes ? TrainingTruth::kBoxes : TrainingTruth::kClass, grey);
    return found;
  }
  if (named == 0) fail(ErrorKind::kUsage, "data {}: maps of classes do not say how many there are; add ,classes=N", spec.text());
  for (const fs::path& p : pictures) {
    const fs::path mask = maps / (p.stem().string() + ".png");
    if (!fs::exists(mask)) fail(ErrorKind::kInput, "{}: holds no map of classes for {}", maps.string(), p.filename().string());
    items.push_back({p.string(), -1, {}, mask.string()});
  }
  found.what = "pictures with maps of classes in labels/";
  found.train = picture_set(std::move(items), numbered(named), TrainingTruth::kMask, grey);
  return found;
}

namespace {

// --- COCO ------------------------------------------------------------------------------------------

std::shared_ptr<const TrainingSet> coco_set(const std::string& file, const std::string& folder, bool grey) {
  CocoFile coco = read_coco(file);
  if (coco.pictures.empty() || coco.classes.empty())
    fail(ErrorKind::kInput, "{}: lists {} pictures and {} categories", file, coco.pictures.size(), coco.classes.size());
  std::vector<Item> items;
  for (CocoFile::Picture& p : coco.pictures) {
    const fs::path path = fs::path(folder) / p.file;
    if (!fs::exists(path)) fail(ErrorKind::kInput, "{}: lists {}, which is not in {}", file, p.file, folder);
    items.push_back({path.string(), -1, std::move(p.boxes)});
  }
  return picture_set(std::move(items), std::move(coco.classes), TrainingTruth::kBoxes, grey);
}

}  // namespace

FoundParts open_coco(const std::string& path, DataSpec& spec) {
  FoundParts found;
  found.what = "COCO boxes";
  if (!fs::is_directory(path)) {
    found.train = coco_set(path, spec.word("images", fs::path(path).parent_path().string()), grey_option(spec));
    return found;
  }
  if (const fs::path beside = fs::path(path) / "labels.json"; fs::exists(beside)) {
    found.train = coco_set(beside.string(), path, grey_option(spec));
    return found;
  }
  // As published: annotations/instances_train2017.json with its pictures in train2017/ or images/train2017/.
  const fs::path annotations = fs::path(path) / "annotations";
  if (!fs::is_directory(annotations)) return {};
  auto part = [&](const std::string& name) -> std::shared_ptr<const TrainingSet> {
    std::vector<fs::path> files;
    for (const auto& entry : fs::directory_iterator(annotations))
      if (std::string file = entry.path().filename().string(); file.starts_with("instances_" + name) && file.ends_with(".json"))
        files.push_back(entry.path());
    if (files.size() > 1)
      fail(ErrorKind::kInput, "{}: holds {} files instances_{}….json; give the path of one of them, and images=FOLDER",
           annotations.string(), files.size(), name);
    if (files.empty()) return nullptr;
    const std::string stem = files[0].stem().string().substr(std::string("instances_").size());
    const std::string pictures = folder_in(path, {stem.c_str(), ("images/" + stem).c_str()});
    if (pictures.empty())
      fail(ErrorKind::kInput, "{}: its pictures are in none of {}/{} and {}/images/{}", files[0].string(), path, stem, path, stem);
    return coco_set(files[0].string(), pictures, grey_option(spec));
  };
  found.train = part("train");
  if (!found.train) return {};
  found.validation = part("val");
  found.test = part("test");
  return found;
}

// --- Pascal VOC ------------------------------------------------------------------------------------

FoundParts open_voc(const std::string& folder, DataSpec& spec) {
  const fs::path root = folder;
  if (!fs::is_directory(root / "Annotations") || !fs::is_directory(root / "JPEGImages")) return {};
  const bool grey = grey_option(spec);
  const std::string task = spec.word("task", "boxes");
  if (task != "boxes" && task != "masks") fail(ErrorKind::kUsage, "data {}: task must be boxes or masks, found '{}'", spec.text(), task);
  const bool masks = task == "masks";
  const fs::path lists = root / "ImageSets" / (masks ? "Segmentation" : "Main");
  std::map<std::string, std::vector<std::string>> stems;
  for (const char* part : {"train", "val", "test"})
    if (fs::path list = lists / fmt::format("{}.txt", part); fs::exists(list)) stems[part] = lines_of(list.string());
  if (stems["train"].empty() && !masks)
    for (const fs::path& p : files_of(root / "Annotations", [](const fs::path& x) { return x.extension() == ".xml"; }))
      stems["train"].push_back(p.stem().string());
  // Without Segmentation/train.txt: whatever has a map.
  if (stems["train"].empty() && masks && fs::is_directory(root / "SegmentationClass"))
    for (const fs::path& p : files_of(root / "SegmentationClass", is_picture)) stems["train"].push_back(p.stem().string());
  std::map<std::string, std::vector<Item>> parts;
  std::map<std::string, std::vector<VocPicture>> read;
  std::set<std::string> names;
  for (const auto& [part, list] : stems) {
    for (const std::string& stem : list) {
      const fs::path picture = root / "JPEGImages" / (stem + ".jpg"), xml = root / "Annotations" / (stem + ".xml"),
                     mask = root / "SegmentationClass" / (stem + ".png");
      if (part == "test" && !fs::exists(masks ? mask : xml)) continue;  // VOC2012's answers are not published
      if (!fs::exists(picture)) fail(ErrorKind::kInput, "{}: is listed in {}.txt and is not there", picture.string(), part);
      if (!fs::exists(masks ? mask : xml))
        fail(ErrorKind::kInput, "{}: is missing: {} has no label", (masks ? mask : xml).string(), picture.string());
      parts[part].push_back({picture.string(), -1, {}, masks ? mask.string() : ""});
      if (masks) continue;
      read[part].push_back(read_voc(xml.string()));
      for (const VocPicture::Object& o : read[part].back().objects) names.insert(o.name);
    }
  }
  if (parts["train"].empty()) fail(ErrorKind::kInput, "{}: lists no picture to train on", folder);
  // VOC numbers its classes in the order of their names, as a set has them.
  std::vector<std::string> classes(names.begin(), names.end());
  if (fs::path given = root / "classes.txt"; fs::exists(given)) classes = lines_of(given.string());
  else if (masks)
    classes = {"background", "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow",
               "diningtable", "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor"};
  if (classes.empty()) fail(ErrorKind::kInput, "{}: its annotations name no object", folder);
  for (auto& [part, pictures] : read) {
    for (size_t i = 0; i < pictures.size(); ++i) {
      for (const VocPicture::Object& o : pictures[i].objects) {
        auto it = std::find(classes.begin(), classes.end(), o.name);
        if (it == classes.end()) fail(ErrorKind::kInput, "{}: holds a '{}', which classes.txt does not name", parts[part][i].path, o.name);
        parts[part][i].boxes.push_back({o.x0, o.y0, o.x1, o.y1, it - classes.begin(), o.difficult});
      }
    }
  }
  FoundParts found;
  found.what = masks ? "VOC maps of classes" : "VOC boxes";
  auto make = [&](const char* part) -> std::shared_ptr<const TrainingSet> {
    if (parts[part].empty()) return nullptr;
    return picture_set(std::move(parts[part]), classes, masks ? TrainingTruth::kMask : TrainingTruth::kBoxes, grey);
  };
  found.train = make("train");
  found.validation = make("val");
  found.test = make("test");
  return found;
}

}  // namespace lathe
