/* chimaera.h - a public header with one name that isn't public. */
#ifndef CHIMAERA_H
#define CHIMAERA_H
#define CHI_OK 0
int chi_open(void);
int open_it(void);
#endif
