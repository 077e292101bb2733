// LATHE_API marks what the shared library shows; everything else in it stays hidden.
#ifndef LATHE_EXPORT_H_
#define LATHE_EXPORT_H_

#if defined(__GNUC__)
#define LATHE_API __attribute__((visibility("default")))
#else
#define LATHE_API
#endif

#endif
