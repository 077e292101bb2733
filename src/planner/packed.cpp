#include "planner/packed.h"

#define XXH_INLINE_ALL
#include <xxhash.h>

#include <algorithm>
#include <cstdio>

#include "core/bytes.h"
#include "core/file.h"
#include "core/version.h"
#include "planner/packed_graph.h"

namespace lathe {
namespace {

constexpr std::string_view kMagic{"\x89LATHE\n\x1a", 8};  // as PNG's: a transfer as text breaks it visibly
constexpr uint32_t kFormat = 4;
constexpr size_t kHeaderBytes = 64, kEntryBytes = 32, kMostSections = 16;
constexpr uint64_t kPage = 4096;  // weights and source begin on a page, so that they are mapped on their own
constexpr const char* kSectionNames[] = {"", "origin", "plan", "weights", "source"};

uint64_t checksum(std::string_view bytes) { return XXH3_64bits(bytes.data(), bytes.size()); }

uint64_t round_up(uint64_t value, uint64_t to) { return (value + to - 1) / to * to; }

template <class T>
T load(std::string_view bytes, size_t at) {
  T value;
  std::memcpy(&value, bytes.data() + at, sizeof value);
  return value;
}

// Everything before the checksum of the header, then what follows it.
uint64_t header_checksum(std::string_view header) {
  return XXH3_64bits_withSeed(header.data() + 32, header.size() - 32, XXH3_64bits(header.data(), 24));
}

}  // namespace

bool is_packed(const std::string& path) {
  std::FILE* file = std::fopen(path.c_str(), "rb");
  if (!file) return false;
  char bytes[8];
  bool same = std::fread(bytes, 1, sizeof bytes, file) == sizeof bytes && std::string_view(bytes, sizeof bytes) == kMagic;
  std::fclose(file);
  return same;
}

PackedFile PackedFile::open(const std::string& path) {
  auto map = MappedFile::open(path);
  std::span<const uint8_t> bytes = map->bytes();
  return PackedFile(bytes, std::move(map), path);
}

PackedFile::PackedFile(std::span<const uint8_t> bytes, std::shared_ptr<const void> owner, std::string name)
    : bytes_(reinterpret_cast<const char*>(bytes.data()), bytes.size()), owner_(std::move(owner)), name_(std::move(name)) {
  require(reinterpret_cast<uintptr_t>(bytes.data()) % 64 == 0, "{}: a packed file must lie at a multiple of 64 bytes", name_);
  read_header();
  if (stale_.empty()) read_origin();
}

// Offsets: 0 magic, 8 format, 12 sections, 16 bytes of the file, 24 checksum of the header without this field and
// of the table, 32 zeros, 64 the table: kind, zero, offset, size, checksum of each section.
void PackedFile::read_header() {
  auto broken = [&](std::string_view why) { fail(ErrorKind::kInput, "{}: is not a readable .lathe file: {}", name_, why); };
  if (bytes_.size() < kHeaderBytes) broken("it is shorter than a header");
  if (bytes_.substr(0, 8) != kMagic) broken("it does not begin with the mark of one");
  auto sections = load<uint32_t>(bytes_, 12);
  if (sections > kMostSections || bytes_.size() < kHeaderBytes + sections * kEntryBytes) broken("its table of sections is cut off");
  if (load<uint64_t>(bytes_, 24) != header_checksum(bytes_.substr(0, kHeaderBytes + sections * kEntryBytes)))
    broken("the header's checksum differs");
  if (load<uint64_t>(bytes_, 16) != bytes_.size())
    broken(fmt::format("it has {} bytes, the header says {}", bytes_.size(), load<uint64_t>(bytes_, 16)));
  for (uint32_t i = 0; i < sections; ++i) {
    std::string_view entry = bytes_.substr(kHeaderBytes + i * kEntryBytes, kEntryBytes);
    auto kind = load<uint32_t>(entry, 0);
    Extent extent{load<uint64_t>(entry, 8), load<uint64_t>(entry, 16), load<uint64_t>(entry, 24)};
    if (extent.offset > bytes_.size() || extent.size > bytes_.size() - extent.offset || extent.offset % 64 != 0)
      broken(fmt::format("section {} lies outside the file", i));
    if (kind >= 1 && kind <= 4) extents_[kind] = extent;  // later formats may have others
  }
  if (auto format = load<uint32_t>(bytes_, 8); format != kFormat)
    stale_ = fmt::format("it has format {}, this lathe reads {}", format, kFormat);
}

std::string_view PackedFile::section(Section kind) const { return bytes_.substr(extents_[kind].offset, extents_[kind].size); }

void PackedFile::verify_section(Section kind) const {
  if (checksum(section(kind)) != extents_[kind].checksum)
    fail(ErrorKind::kInput, "{}: is corrupt: the checksum of its {} differs", name_, kSectionNames[kind]);
}

void PackedFile::read_origin() {
  verify_section(kOrigin);
  ByteReader in(section(kOrigin), name_);
  origin_.version = in.text();
  origin_.machine = in.text();
  origin_.model = in.text();
  origin_.batch = in.number<int64_t>();
  PlanOptions& o = origin_.options;
  for (bool* flag : {&o.fuse, &o.integer, &o.bf16, &o.reference, &o.slice, &o.tune, &o.bf16_marked, &o.patches, &o.tokens}) *flag = in.number<uint8_t>() != 0;
  for (size_t left = in.count(8); left > 0; --left) {
    std::string input = in.text();
    o.input_shapes[input] = in.numbers<int64_t>();
  }
  in.finish();
  if (origin_.version != kVersion)
    stale_ = fmt::format("it was made by lathe {}, this is {}", origin_.version, kVersion);
  else if (std::string here = packing_identity(); origin_.machine != here)
    stale_ = fmt::format("it was made for another machine: {}; this is {}", origin_.machine, here);
}

Plan PackedFile::plan() const {
  if (!stale_.empty()) throw StalePacking(ErrorKind::kUnsupported, fmt::format("{}: {}", name_, stale_));
  verify_section(kPlan);
  ByteReader in(section(kPlan), name_);
  WeightReader weights(section(kWeights), owner_);
  try {
    Graph graph = read_graph(in, weights);
    PlanRecord record = read_record(in, weights);
    in.finish();
    return restore_plan(std::move(graph), record);
  } catch (const StalePacking& e) {
    throw StalePacking(e.kind(), fmt::format("{}: {}", name_, e.what()));
  } catch (const Error& e) {
    if (std::string_view(e.what()).starts_with(name_)) throw;
    fail(e.kind(), "{}: {}", name_, e.what());
  }
}

void PackedFile::check() const {
  uint64_t end = kHeaderBytes + load<uint32_t>(bytes_, 12) * kEntryBytes;
  for (Section kind : {kOrigin, kPlan, kWeights, kSource}) {
    const Extent& extent = extents_[kind];
    if (extent.size == 0) continue;
    verify_section(kind);
    // What lies between sections is zero.
    std::string_view gap = extent.offset >= end ? bytes_.substr(end, extent.offset - end) : std::string_view("overlap");
    if (gap.find_first_not_of('\0') != gap.npos) fail(ErrorKind::kInput, "{}: is corrupt: before its {}", name_, kSectionNames[kind]);
    end = extent.offset + extent.size;
  }
  if (end != bytes_.size()) fail(ErrorKind::kInput, "{}: is corrupt: {} bytes follow its last section", name_, bytes_.size() - end);
}

void write_packed(const Plan& plan, const PackedOrigin& origin, std::string_view source, const std::string& path) {
  ByteWriter about, plan_bytes;
  about.text(kVersion);
  about.text(packing_identity());
  about.text(origin.model);
  about.number(origin.batch);
  const PlanOptions& o = origin.options;
  for (bool flag : {o.fuse, o.integer, o.bf16, o.reference, o.slice, o.tune, o.bf16_marked, o.patches, o.tokens}) about.number(static_cast<uint8_t>(flag));
  about.count(o.input_shapes.size());
  for (const auto& [name, shape] : o.input_shapes) {
    about.text(name);
    about.numbers(shape);
  }
  WeightWriter weights;
  write_graph(plan.graph, plan_bytes, weights);
  write_record(record_of(plan), plan_bytes, weights);

  XXH3_state_t state;
  XXH3_64bits_reset(&state);
  weights.for_each_piece([&](const void* data, size_t size) { XXH3_64bits_update(&state, data, size); });
  struct Part {
    PackedFile::Section kind;
    uint64_t size, checksum, alignment;
  };
  std::vector<Part> parts = {{PackedFile::kOrigin, about.bytes().size(), checksum(about.bytes()), 64},
                             {PackedFile::kPlan, plan_bytes.bytes().size(), checksum(plan_bytes.bytes()), 64},
                             {PackedFile::kWeights, weights.size(), XXH3_64bits_digest(&state), kPage}};
  if (!source.empty()) parts.push_back({PackedFile::kSource, source.size(), checksum(source), kPage});

  ByteWriter table;
  uint64_t at = kHeaderBytes + parts.size() * kEntryBytes;
  std::vector<uint64_t> offsets;
  for (const Part& part : parts) {
    at = round_up(at, part.alignment);
    table.number<uint32_t>(part.kind);
    table.number<uint32_t>(0);
    table.number(at);
    table.number(part.size);
    table.number(part.checksum);
    offsets.push_back(at);
    at += part.size;
  }
  ByteWriter header;
  header.raw(kMagic.data(), kMagic.size());
  header.number(kFormat);
  header.count(parts.size());
  header.number(at);
  std::string head(header.bytes());
  head.resize(kHeaderBytes, '\0');
  head += table.bytes();
  uint64_t sum = header_checksum(head);
  std::memcpy(head.data() + 24, &sum, sizeof sum);

  AtomicFile file(path);
  uint64_t written = 0;
  auto put = [&](const void* data, size_t size) { file.write(data, size); written += size; };
  put(head.data(), head.size());
  for (size_t i = 0; i < parts.size(); ++i) {
    std::string padding(offsets[i] - written, '\0');
    put(padding.data(), padding.size());
    switch (parts[i].kind) {
      case PackedFile::kOrigin: put(about.bytes().data(), about.bytes().size()); break;
      case PackedFile::kPlan: put(plan_bytes.bytes().data(), plan_bytes.bytes().size()); break;
      case PackedFile::kWeights: weights.for_each_piece(put); break;
      case PackedFile::kSource: put(source.data(), source.size()); break;
    }
  }
  file.commit();
}

}  // namespace lathe
