#include "formats/image.h"

#include <csetjmp>
#include <cstdio>  // jpeglib.h needs FILE
#include <cstdlib>
#include <cstring>
#include <memory>

#include <jpeglib.h>
#include <png.h>
#include <webp/decode.h>

#include "core/file.h"

namespace lathe {
namespace {

constexpr int64_t kMaxFileBytes = int64_t{1} << 29;  // 100 megapixels of 16-bit RGB fit

void check_size(int64_t width, int64_t height, const std::string& name) {
  if (width <= 0 || height <= 0)
    fail(ErrorKind::kInput, "{}: the picture has no pixels ({} x {})", name, width, height);
  if (width > kMaxPixels / height)
    fail(ErrorKind::kInput, "{}: {} x {} pixels are over the limit of {} megapixels", name, width, height,
         kMaxPixels / 1'000'000);
}

Image make_image(int64_t width, int64_t height, const std::string& name) {
  check_size(width, height, name);
  Image image{static_cast<int>(width), static_cast<int>(height), {}};
  image.rgb.resize(size_t{3} * width * height);
  return image;
}

void over_white(const uint8_t* rgba, size_t pixels, uint8_t* rgb) {
  for (size_t i = 0; i < pixels; ++i) {
    int alpha = rgba[4 * i + 3];
    for (int c = 0; c < 3; ++c)
      rgb[3 * i + c] = static_cast<uint8_t>((rgba[4 * i + c] * alpha + 255 * (255 - alpha) + 127) / 255);
  }
}

// --- JPEG ------------------------------------------------------------------------------------------

// libjpeg reports errors by a function that must not return. Throwing through its C frames is not
// allowed, so it jumps back to the caller, where no object with a destructor has been made in between.
struct JpegErrors {
  jpeg_error_mgr manager;  // first: libjpeg hands back a pointer to it
  std::jmp_buf jump;
  char message[JMSG_LENGTH_MAX];
};

void jpeg_fatal(j_common_ptr state) {
  auto* errors = reinterpret_cast<JpegErrors*>(state->err);
  errors->manager.format_message(state, errors->message);
  std::longjmp(errors->jump, 1);
}

// Warnings are how libjpeg tells of a file cut short or damaged, which it fills with gray: an error here.
// Bytes left over before a marker are harmless and common.
void jpeg_warning(j_common_ptr state, int level) {
  constexpr const char* kExtraneous = "extraneous";
  if (level >= 0) return;
  auto* errors = reinterpret_cast<JpegErrors*>(state->err);
  errors->manager.format_message(state, errors->message);
  if (!std::strstr(errors->message, kExtraneous)) std::longjmp(errors->jump, 1);
}

void jpeg_silent(j_common_ptr) {}

void set_handlers(JpegErrors& errors) {
  jpeg_std_error(&errors.manager);
  errors.manager.error_exit = jpeg_fatal;
  errors.manager.emit_message = jpeg_warning;
  errors.manager.output_message = jpeg_silent;
  errors.message[0] = 0;
}

// Adobe writes CMYK inverted, and every CMYK JPEG in practice is Adobe's.
void cmyk_to_rgb(const uint8_t* cmyk, int width, uint8_t* rgb) {
  for (int x = 0; x < width; ++x)
    for (int c = 0; c < 3; ++c)
      rgb[3 * x + c] = static_cast<uint8_t>((cmyk[4 * x + c] * cmyk[4 * x + 3] + 127) / 255);
}

// The two steps between which the buffers are made; each returns false on an error told in `errors`.
bool start_jpeg(jpeg_decompress_struct& state, JpegErrors& errors, std::span<const uint8_t> bytes) {
  if (setjmp(errors.jump)) return false;
  jpeg_create_decompress(&state);
  jpeg_mem_src(&state, bytes.data(), bytes.size());
  jpeg_read_header(&state, TRUE);
  bool four = state.jpeg_color_space == JCS_CMYK || state.jpeg_color_space == JCS_YCCK;
  state.out_color_space = four ? JCS_CMYK : JCS_RGB;
  return true;
}

// A progressive file may hold thousands of scans, each of which costs a pass over all pixels.
constexpr int kMaxScans = 200;

bool decode_jpeg(jpeg_decompress_struct& state, JpegErrors& errors, Image& image, uint8_t* line) {
  if (setjmp(errors.jump)) return false;
  state.buffered_image = jpeg_has_multiple_scans(&state);
  jpeg_start_decompress(&state);
  if (state.buffered_image) {
    while (!jpeg_input_complete(&state)) {
      jpeg_consume_input(&state);
      if (state.input_scan_number > kMaxScans) {
        std::snprintf(errors.message, sizeof errors.message, "more than %d scans", kMaxScans);
        return false;
      }
    }
    jpeg_start_output(&state, state.input_scan_number);
  }
  while (state.output_scanline < state.output_height) {
    uint8_t* target = image.pixel(0, static_cast<int>(state.output_scanline));
    JSAMPROW row = state.out_color_space == JCS_CMYK ? line : target;
    if (jpeg_read_scanlines(&state, &row, 1) != 1) return false;
    if (row == line) cmyk_to_rgb(line, image.width, target);
  }
  if (state.buffered_image) jpeg_finish_output(&state);
  jpeg_finish_decompress(&state);
  return true;
}

Image read_jpeg(std::span<const uint8_t> bytes, const std::string& name) {
  jpeg_decompress_struct state{};
  JpegErrors errors;
  state.err = &errors.manager;
  set_handlers(errors);
  // Destroying a state that was never created is allowed as long as it is zero.
  auto destroy = [](jpeg_decompress_struct* s) { jpeg_destroy_decompress(s); };
  std::unique_ptr<jpeg_decompress_struct, decltype(destroy)> guard(&state, destroy);
  if (!start_jpeg(state, errors, bytes))
    fail(ErrorKind::kInput, "{}: broken JPEG: {}", name, errors.message);
  Image image = make_image(state.image_width, state.image_height, name);
  std::vector<uint8_t> line(size_t{4} * image.width);
  if (!decode_jpeg(state, errors, image, line.data()))
    fail(ErrorKind::kInput, "{}: broken or truncated JPEG: {}", name, errors.message);
  return image;
}

bool encode_jpeg(jpeg_compress_struct& state, JpegErrors& errors, const Image& image, int quality,
                 unsigned char** bytes, unsigned long* size) {
  if (setjmp(errors.jump)) return false;
  jpeg_create_compress(&state);
  jpeg_mem_dest(&state, bytes, size);
  state.image_width = image.width;
  state.image_height = image.height;
  state.input_components = 3;
  state.in_color_space = JCS_RGB;
  jpeg_set_defaults(&state);
  jpeg_set_quality(&state, quality, TRUE);
  jpeg_start_compress(&state, TRUE);
  while (state.next_scanline < state.image_height) {
    auto* row = const_cast<uint8_t*>(image.pixel(0, static_cast<int>(state.next_scanline)));
    jpeg_write_scanlines(&state, &row, 1);
  }
  jpeg_finish_compress(&state);
  return true;
}

// --- PNG and WebP ----------------------------------------------------------------------------------

Image read_png(std::span<const uint8_t> bytes, const std::string& name) {
  png_image header{};
  header.version = PNG_IMAGE_VERSION;
  auto release = [](png_image* p) { png_image_free(p); };
  std::unique_ptr<png_image, decltype(release)> guard(&header, release);
  // The simplified interface does not look at the declared size before it allocates rows; its own limit
  // is one million pixels a side, so the size is checked as soon as the header is read.
  if (!png_image_begin_read_from_memory(&header, bytes.data(), bytes.size()))
    fail(ErrorKind::kInput, "{}: broken PNG: {}", name, header.message);
  Image image = make_image(header.width, header.height, name);
  bool alpha = (header.format & PNG_FORMAT_FLAG_ALPHA) != 0;
  header.format = alpha ? PNG_FORMAT_RGBA : PNG_FORMAT_RGB;
  std::vector<uint8_t> rgba(alpha ? size_t{4} * header.width * header.height : 0);
  uint8_t* target = alpha ? rgba.data() : image.rgb.data();
  // A warning (a bad checksum, too little data) leaves pixels undefined: an error too.
  if (!png_image_finish_read(&header, nullptr, target, 0, nullptr) || PNG_IMAGE_FAILED(header))
    fail(ErrorKind::kInput, "{}: broken or truncated PNG: {}", name, header.message);
  if (alpha) over_white(rgba.data(), rgba.size() / 4, image.rgb.data());
  return image;
}

Image read_webp(std::span<const uint8_t> bytes, const std::string& name) {
  WebPBitstreamFeatures features;
  if (WebPGetFeatures(bytes.data(), bytes.size(), &features) != VP8_STATUS_OK)
    fail(ErrorKind::kInput, "{}: broken WebP header", name);
  if (features.has_animation)
    fail(ErrorKind::kUnsupported, "{}: is an animated WebP; lathe reads still pictures", name);
  Image image = make_image(features.width, features.height, name);
  bool good;
  if (features.has_alpha) {
    std::vector<uint8_t> rgba(size_t{4} * image.width * image.height);
    good = WebPDecodeRGBAInto(bytes.data(), bytes.size(), rgba.data(), rgba.size(), image.width * 4);
    if (good) over_white(rgba.data(), rgba.size() / 4, image.rgb.data());
  } else {
    good = WebPDecodeRGBInto(bytes.data(), bytes.size(), image.rgb.data(), image.rgb.size(),
                             image.width * 3);
  }
  if (!good) fail(ErrorKind::kInput, "{}: broken or truncated WebP", name);
  return image;
}

bool begins_with(std::span<const uint8_t> bytes, std::string_view magic, size_t at = 0) {
  return bytes.size() >= at + magic.size() && std::memcmp(bytes.data() + at, magic.data(), magic.size()) == 0;
}

void check_image(const Image& image, const std::string& path) {
  check_size(image.width, image.height, path);
  require(image.rgb.size() == size_t{3} * image.width * image.height, "{}: {} bytes for {} x {} pixels",
          path, image.rgb.size(), image.width, image.height);
}

}  // namespace

Image decode_image(std::span<const uint8_t> bytes, const std::string& name) {
  if (bytes.empty()) fail(ErrorKind::kInput, "{}: is empty", name);
  if (begins_with(bytes, "\xff\xd8\xff")) return read_jpeg(bytes, name);
  if (begins_with(bytes, "\x89PNG\r\n\x1a\n")) return read_png(bytes, name);
  if (begins_with(bytes, "RIFF") && begins_with(bytes, "WEBP", 8)) return read_webp(bytes, name);
  fail(ErrorKind::kInput, "{}: is not a JPEG, PNG or WebP picture", name);
}

Image read_image(const std::string& path) { return decode_image(read_file(path, kMaxFileBytes), path); }

namespace {

// What libpng's functions share with the one that calls them: no object with a destructor is made between setjmp and the jump.
struct PngState {
  png_structp png = nullptr;
  png_infop info = nullptr;
  std::span<const uint8_t> bytes;
  size_t at = 0;
  char message[128] = "";
  ~PngState() { png_destroy_read_struct(&png, &info, nullptr); }
};

void png_fatal(png_structp png, png_const_charp message) {
  auto* state = static_cast<PngState*>(png_get_error_ptr(png));
  std::snprintf(state->message, sizeof state->message, "%s", message);
  png_longjmp(png, 1);
}

void png_take(png_structp png, png_bytep target, size_t count) {
  auto* state = static_cast<PngState*>(png_get_io_ptr(png));
  if (count > state->bytes.size() - state->at) png_error(png, "the file is cut short");
  std::memcpy(target, state->bytes.data() + state->at, count);
  state->at += count;
}

// The header, and one byte a pixel from then on.
bool start_label_map(PngState& state) {
  if (setjmp(png_jmpbuf(state.png))) return false;
  png_set_read_fn(state.png, &state, png_take);
  png_set_user_limits(state.png, 1 << 20, 1 << 20);
  png_read_info(state.png, state.info);
  png_byte color = png_get_color_type(state.png, state.info);
  if ((color != PNG_COLOR_TYPE_PALETTE && color != PNG_COLOR_TYPE_GRAY) || png_get_bit_depth(state.png, state.info) > 8)
    png_error(state.png, "its pixels are colours; expected a palette or gray values of 8 bits");
  png_set_packing(state.png);
  png_set_interlace_handling(state.png);
  png_read_update_info(state.png, state.info);
  return true;
}

bool finish_label_map(PngState& state, png_bytepp rows) {
  if (setjmp(png_jmpbuf(state.png))) return false;
  png_read_image(state.png, rows);
  return true;
}

}  // namespace

LabelMap read_label_map(const std::string& path) { return decode_label_map(read_file(path, kMaxFileBytes), path); }

LabelMap decode_label_map(std::span<const uint8_t> bytes, const std::string& name) {
  PngState state;
  state.bytes = bytes;
  state.png = png_create_read_struct(PNG_LIBPNG_VER_STRING, &state, png_fatal, [](png_structp, png_const_charp) {});
  if (state.png) state.info = png_create_info_struct(state.png);
  require(state.png && state.info, "libpng cannot be started");
  if (!start_label_map(state)) fail(ErrorKind::kInput, "{}: no map of labels: {}", name, state.message);
  LabelMap map;
  check_size(png_get_image_width(state.png, state.info), png_get_image_height(state.png, state.info), name);
  map.width = static_cast<int>(png_get_image_width(state.png, state.info));
  map.height = static_cast<int>(png_get_image_height(state.png, state.info));
  map.labels.resize(size_t{1} * map.width * map.height);
  std::vector<png_bytep> rows(static_cast<size_t>(map.height));
  for (int y = 0; y < map.height; ++y) rows[static_cast<size_t>(y)] = &map.labels[size_t{1} * y * map.width];
  if (!finish_label_map(state, rows.data())) fail(ErrorKind::kInput, "{}: broken or truncated PNG: {}", name, state.message);
  return map;
}

void write_png(const std::string& path, const Image& image) {
  check_image(image, path);
  png_image header{};
  header.version = PNG_IMAGE_VERSION;
  header.width = image.width;
  header.height = image.height;
  header.format = PNG_FORMAT_RGB;
  png_alloc_size_t size = PNG_IMAGE_PNG_SIZE_MAX(header);
  std::vector<uint8_t> bytes(size);
  if (!png_image_write_to_memory(&header, bytes.data(), &size, 0, image.rgb.data(), 0, nullptr))
    fail(ErrorKind::kInternal, "{}: cannot be encoded as PNG: {}", path, header.message);
  write_file(path, {reinterpret_cast<const char*>(bytes.data()), size});
}

void write_jpeg(const std::string& path, const Image& image, int quality) {
  check_image(image, path);
  if (quality < 1 || quality > 100)
    fail(ErrorKind::kUsage, "JPEG quality {} is not in 1 … 100", quality);
  if (image.width > JPEG_MAX_DIMENSION || image.height > JPEG_MAX_DIMENSION)
    fail(ErrorKind::kUnsupported, "{}: JPEG allows {} pixels a side; the picture has {} x {}", path,
         JPEG_MAX_DIMENSION, image.width, image.height);
  jpeg_compress_struct state{};
  JpegErrors errors;
  state.err = &errors.manager;
  set_handlers(errors);
  unsigned char* bytes = nullptr;
  unsigned long size = 0;
  bool good = encode_jpeg(state, errors, image, quality, &bytes, &size);
  jpeg_destroy_compress(&state);
  std::unique_ptr<unsigned char, decltype(&std::free)> owner(bytes, std::free);
  if (!good) fail(ErrorKind::kInternal, "{}: cannot be encoded as JPEG: {}", path, errors.message);
  write_file(path, {reinterpret_cast<const char*>(bytes), size});
}

}  // namespace lathe
