/* The same on a PC. */
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "host.h"

enum { MOST_FILES = 4 };
static FILE *files[MOST_FILES];

void host_print(const char *text) { (void)fputs(text, stdout); }

void host_exit(int code) { exit(code); }

int host_open(const char *name, int to_write) {
  for (int i = 0; i < MOST_FILES; ++i)
    if (!files[i]) return (files[i] = fopen(name, to_write ? "wb" : "rb")) ? i : -1;
  return -1;
}
int host_read(int file, void *data, uint32_t count) { return fread(data, 1, count, files[file]) == count; }
int host_write(int file, const void *data, uint32_t count) { return fwrite(data, 1, count, files[file]) == count; }
void host_close(int file) {
  (void)fclose(files[file]);
  files[file] = 0;
}

void host_start_clock(void) {}
uint64_t host_ticks(void) { return 0; }
void host_count_to(uint32_t rounds) { (void)rounds; }
void host_paint_stack(void) {}
uint32_t host_stack_used(void) { return 0; }
