#!/bin/sh
# The tests of pages need Chromium and its driver; where this user may install Debian packages, install them.
set -eu
if command -v chromium >/dev/null 2>&1 && command -v chromedriver >/dev/null 2>&1; then
    exit 0
fi
if command -v apt-get >/dev/null 2>&1 && [ "$(id -u)" = 0 ]; then
    echo "installing chromium and its driver"
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium chromium-driver >/dev/null
else
    echo "chromium and chromedriver are missing: install them (Debian: apt-get install chromium chromium-driver)" >&2
    exit 1
fi
