"""data_order.py against the runtime's order: data_order_test.py DATA_ORDER_PRINT."""
import subprocess
import sys

from data_order import DataOrder

lines = subprocess.run([sys.argv[1]], capture_output=True, text=True, check=True).stdout.splitlines()
assert len(lines) > 200, len(lines)
for line in lines:
    tokens, sequence, seed, index, start = map(int, line.split())
    found = DataOrder(tokens, sequence, seed).start(index)
    assert found == start, (line, found)
