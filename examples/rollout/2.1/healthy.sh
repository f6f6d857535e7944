#!/bin/sh
# 2.1 brings its licence along.
grep -q "unlimited seats" licence.txt
