/*
 * What every unit test shares: how long a suite may take, and the size of its tables.
 *
 * One file per header of the core floor, one suite per file; a test's name says the behaviour, pitfall_NN_ in front
 * of it the number of the pitfall. Cases are tables that a loop goes through, and each message begins with the case's
 * name.
 */
#ifndef UNIT_H
#define UNIT_H

#include <criterion/criterion.h>

/* Seconds after which a test counts as hanging. */
#define UNIT_TIMEOUT 60

#define UNIT_COUNT(table) (sizeof(table) / sizeof((table)[0]))

#endif
