#!/bin/sh
# embed.sh - writes the parts of the page as C strings, to standard output.
#
# usage: tools/html/embed.sh
set -eu
cd "$(dirname "$0")"

# $1: name; the rest: files, one after the other.
string()
{
  printf 'static const char %s[] =\n' "$1"
  shift
  sed -e 's/[\\"]/\\&/g' -e 's/^/"/' -e 's/$/\\n"/' "$@"
  echo ';'
}

echo '/* Written by tools/html/embed.sh. */'
string trace_html_frame page.html
string trace_html_style page.css
string trace_html_script model.js draw.js list.js page.js selftest.js start.js
