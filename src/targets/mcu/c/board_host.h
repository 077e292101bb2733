/* What main.c asks of the machine that it runs on: through a debugger or emulator (semihosting.c), or as a program of a
 * PC (pc.c). */
#ifndef HOST_H
#define HOST_H

#include <stdint.h>

void host_print(const char *text);
void host_exit(int code) __attribute__((noreturn));
/* A file of the machine that looks on; −1 where there is none. Reads and writes the whole count, or returns 0. */
int host_open(const char *name, int to_write);
int host_read(int file, void *data, uint32_t count);
int host_write(int file, const void *data, uint32_t count);
void host_close(int file);

void host_start_clock(void);
uint64_t host_ticks(void);
void host_count_to(uint32_t rounds);
void host_paint_stack(void);
uint32_t host_stack_used(void);

#endif
