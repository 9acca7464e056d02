"""As much of curl as the documentation uses, so that its examples are tested where there is none."""

import argparse
import sys
import urllib.error
import urllib.request
from pathlib import Path


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("-s", action="store_true")
    parser.add_argument("-i", action="store_true")
    parser.add_argument("-X", dest="method")
    parser.add_argument("-H", dest="headers", action="append", default=[])
    parser.add_argument("-d", dest="data")
    parser.add_argument("--data-binary", dest="file", type=lambda given: given.removeprefix("@"))
    parser.add_argument("url")
    given = parser.parse_args()
    data = None if given.data is None else given.data.encode()
    request = urllib.request.Request(
        given.url,
        data if given.file is None else Path(given.file).read_bytes(),
        dict(header.split(": ", 1) for header in given.headers),
        method=given.method,
    )
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        answer = opener.open(request, timeout=30)
    except urllib.error.HTTPError as error:
        answer = error
    if given.i:
        sys.stdout.write(f"HTTP/1.1 {answer.status} {answer.reason}\n{answer.headers}")
    sys.stdout.write(answer.read().decode())
    sys.stdout.flush()


main()
