#!/bin/sh
# run.sh - asks the simulation all questions about large clusters, and draws what it says.
#
# usage: tests/scale/run.sh PROGRAM DIRECTORY [LARGEST]
#
# PROGRAM is what scale.c was built to. DIRECTORY gets *.csv, the same on every machine, and *.svg.
set -eu
program=$1 dir=$2 largest=${3:-1000}
LC_ALL=C
export LC_ALL
command -v gnuplot >/dev/null || {
  echo 'run.sh: gnuplot draws the plots: apt-get install gnuplot-nox' >&2
  exit 1
}
mkdir -p "$dir"

# $1: question, $2: heading of the file, $3: further arguments to try, or '-' for none.
ask()
{
  echo "$2" >"$dir/$1.csv.new"
  for nodes in 10 30 100 300 1000; do
    [ "$nodes" -le "$largest" ] || continue
    for more in $3; do
      [ "$more" != - ] || more=
      echo "$1 $nodes $more" >&2
      # shellcheck disable=SC2086
      "$program" "$1" "$nodes" $more >>"$dir/$1.csv.new"
    done
  done
  mv "$dir/$1.csv.new" "$dir/$1.csv"
}

ask broadcast nodes,neighborhood,min_us,median_us,max_us '2 8 32 128'
ask pools nodes,min_us,median_us,max_us -
ask load nodes,messages_per_s,bytes_per_s,messages_to_meet,bytes_to_meet -
ask detection "nodes,suspect_min_s,suspect_median_s,suspect_max_s,first_min_s,first_median_s,\
first_max_s,all_min_s,all_median_s,all_max_s" -

# $1: name of the plot, $2: label of the vertical axis; the commands come from standard input.
plot()
{
  gnuplot - <<END
set terminal svg size 720,440 font 'Helvetica,13' background '#ffffff'
set output '$dir/$1.svg'
set datafile separator ','
set datafile missing NaN
set border 3 lc rgb '#888888'
set tics nomirror textcolor rgb '#222222'
set grid lc rgb '#dddddd' lt 1
set key top left
set logscale x
set xrange [8:1400]
set xtics (10, 30, 100, 300, 1000)
set xlabel 'nodes'
set ylabel '$2'
set style line 1 lw 2 pt 7 ps 0.6 lc rgb '#1b6ca8'
set style line 2 lw 2 pt 5 ps 0.6 lc rgb '#c8553d'
set style line 3 lw 2 pt 9 ps 0.7 lc rgb '#3a7d44'
set style line 4 lw 2 pt 13 ps 0.8 lc rgb '#7a5195'
file(name) = '$dir/'.name.'.csv'
$(cat)
END
}

plot broadcast 'broadcast to all and back, us (median)' <<'END'
set logscale y
set yrange [80:1200]
set ytics (100, 200, 400, 800)
plot for [i=1:4] b = word('2 8 32 128', i) file('broadcast') every ::1 \
  using 1:(stringcolumn(2) eq b ? $4 : NaN) with linespoints ls i title 'neighborhood '.b
END
plot detection 's after the crash' <<'END'
set key top left
set yrange [0:*]
plot file('detection') every ::1 using 1:9:8:10 with yerrorbars ls 2 notitle, \
  '' every ::1 using 1:9 with linespoints ls 2 title 'all nodes know', \
  '' every ::1 using 1:6 with linespoints ls 1 title 'the first one knows', \
  '' every ::1 using 1:3 with linespoints ls 3 title 'the first one suspects'
END
plot load 'a node' <<'END'
set logscale y
set yrange [1:10000]
plot file('load') every ::1 using 1:4 with linespoints ls 3 \
    title 'messages of a node until all have met, once', \
  '' every ::1 using 1:3 with linespoints ls 1 title 'bytes a second of an idle node', \
  '' every ::1 using 1:2 with linespoints ls 2 title 'messages a second of an idle node'
END
plot pools 'us until the pool can be used' <<'END'
set logscale y
set yrange [80:1200]
set ytics (100, 200, 400, 800)
plot file('pools') every ::1 using 1:3:2:4 with yerrorbars ls 1 notitle, \
  '' every ::1 using 1:3 with linespoints ls 1 title 'median, least and most of five'
END
