"""What the store has Redis do in one step. Redis runs one script at a time, whole or not at all.

Each begins by looking whether this is the store that was opened: KEYS[1] has its identity. Lua's
numbers are exact up to 2^53; whatever may be larger passes through as bytes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from hashlib import sha1

_BEGIN = """
if redis.call('GET', KEYS[1]) ~= ARGV[1] then
  return redis.error_reply('OTHERSTORE the store was emptied or replaced while in use')
end
"""
CHECK_PRIME = 4294967291
"""Modulus of the check value in a record's head: see `HEAD`."""


@dataclass(frozen=True, slots=True)
class Script:
    """A script and the digest that Redis knows it by."""

    text: str
    sha: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "sha", sha1(self.text.encode(), usedforsecurity=False).hexdigest())


# KEYS: store, run, position, seq. ARGV: identity of a new store, id of the server's run, and
# whether a server that was started again may have lost positions. Those are never given twice:
# a follower that saw the lost ones would miss what gets them next.
BOOT = Script("""
local own = redis.call('GET', KEYS[1])
if not own then
  redis.call('SET', KEYS[1], ARGV[1])
  own = ARGV[1]
end
local run = redis.call('GET', KEYS[2])
if run ~= ARGV[2] then
  redis.call('SET', KEYS[2], ARGV[2])
  for i = 3, 4 do
    if run and ARGV[3] == '1' and redis.call('EXISTS', KEYS[i]) == 1 then
      redis.call('INCRBY', KEYS[i], 1000000)
    end
  end
end
return own
""")

# Changes after a position, at most so many. `positions` is sorted by position.
_CHANGES = """
local function changes(positions, catalogue, after, limit)
  local numbers = redis.call('ZRANGEBYSCORE', positions, '(' .. after, '+inf', 'LIMIT', 0, limit)
  local found = {}
  for i = 1, #numbers do found[i] = redis.call('HGET', catalogue, numbers[i]) end
  return found
end
"""

# KEYS: store, profiles, more:profiles, histories, more:histories, positions, catalogue.
# ARGV: identity, after, limit (0: no changes are asked), ids. Answers profiles, histories, changes.
READ = Script(
    _BEGIN
    + _CHANGES
    + """
local profiles, histories, found = {}, {}, {}
for i = 4, #ARGV do
  profiles[i - 3] = redis.call('HGET', KEYS[2], ARGV[i]) or redis.call('HGET', KEYS[3], ARGV[i])
  histories[i - 3] = redis.call('HGET', KEYS[4], ARGV[i]) or redis.call('HGET', KEYS[5], ARGV[i])
end
if ARGV[3] ~= '0' then found = changes(KEYS[6], KEYS[7], ARGV[2], ARGV[3]) end
return {profiles, histories, found}
"""
)

# KEYS: store, numbers, more:numbers, catalogue. ARGV: identity, ids. Answers numbers and records.
ITEMS = Script(
    _BEGIN
    + """
local numbers, records = {}, {}
for i = 2, #ARGV do
  local number = redis.call('HGET', KEYS[2], ARGV[i]) or redis.call('HGET', KEYS[3], ARGV[i])
  numbers[i - 1] = number
  records[i - 1] = number and redis.call('HGET', KEYS[4], number)
end
return {numbers, records}
"""
)

# HEAD of a record: position, number, and a value that tells when either was changed by accident.
_PUT = f"""
local function find(id)
  return tonumber(redis.call('HGET', KEYS[2], id) or redis.call('HGET', KEYS[3], id) or nil)
end
local function put(number, body)
  local position = redis.call('INCR', KEYS[8])
  local check = (position * 7 + number * 13) % {CHECK_PRIME}
  redis.call('HSET', KEYS[6], number, struct.pack('<I8I8I4', position, number, check) .. body)
  redis.call('ZADD', KEYS[7], position, number)
  return position
end
"""

# KEYS: store, numbers, more:numbers, ids, next, catalogue, positions, position. ARGV: identity,
# then id and body of each item. Answers number and position of each.
UPSERT = Script(
    _BEGIN
    + _PUT
    + """
local answer = {}
for i = 2, #ARGV, 2 do
  local number = find(ARGV[i])
  if not number then
    number = redis.call('INCR', KEYS[5]) - 1
    redis.call('HSET', KEYS[2], ARGV[i], number)
    redis.call('HSET', KEYS[4], number, ARGV[i])
  end
  answer[#answer + 1] = number
  answer[#answer + 1] = put(number, ARGV[i + 1])
end
return answer
"""
)

# As UPSERT; answers index, number and position of those that were there. The first byte of a body
# says whether the item is deleted.
DELETE = Script(
    _BEGIN
    + _PUT
    + """
local answer = {}
for i = 2, #ARGV, 2 do
  local number = find(ARGV[i])
  local record = number and redis.call('HGET', KEYS[6], number)
  if number and not (record and string.byte(record, 21) == 1) then
    answer[#answer + 1] = (i - 2) / 2
    answer[#answer + 1] = number
    answer[#answer + 1] = put(number, ARGV[i + 1])
  end
end
return answer
"""
)

# What an append needs to know. KEYS: store, numbers, more:numbers, histories, more:histories, then
# the set of event ids of each user. ARGV: identity, count of items, their ids, then for each user:
# its id, how many event ids follow, these. Answers numbers, histories, which event ids are stored.
BEFORE = Script(
    _BEGIN
    + """
local numbers, histories, stored = {}, {}, {}
local function find(place, key)
  return redis.call('HGET', KEYS[place], key) or redis.call('HGET', KEYS[place + 1], key)
end
local at = 3 + ARGV[2]
for i = 3, at - 1 do numbers[i - 2] = find(2, ARGV[i]) end
for user = 1, #KEYS - 5 do
  histories[user] = find(4, ARGV[at])
  for i = at + 2, at + 1 + ARGV[at + 1] do
    stored[#stored + 1] = redis.call('SISMEMBER', KEYS[5 + user], ARGV[i])
  end
  at = at + 2 + ARGV[at + 1]
end
return {numbers, histories, stored}
"""
)

# Does nothing and answers 0 when a history is not the one that was read (its first 8 bytes are its
# version). KEYS: store, histories, more:histories, events, seq, then the set of event ids of each
# user. ARGV: identity, most events in the log, then for each user: its id, the version that was
# read, the new history; then for each event: the user's index, its id, its row.
APPEND = Script(
    _BEGIN
    + """
local users, at = #KEYS - 5, 3
for user = 1, users do
  local own = redis.call('HGET', KEYS[2], ARGV[at]) or redis.call('HGET', KEYS[3], ARGV[at])
  if string.sub(own or '', 1, 8) ~= ARGV[at + 1] then return 0 end
  at = at + 3
end
for i = 3, at - 1, 3 do redis.call('HSET', KEYS[2], ARGV[i], ARGV[i + 2]) end
for i = at, #ARGV, 3 do
  if ARGV[i + 1] ~= '' then redis.call('SADD', KEYS[5 + ARGV[i]], ARGV[i + 1]) end
  local place = string.format('%.0f-0', redis.call('INCR', KEYS[5]))
  redis.call('XADD', KEYS[4], 'MAXLEN', '~', ARGV[2], place, 'v', ARGV[i + 2])
end
return 1
"""
)

# Does nothing and answers 0 when a profile is not the one that was read. KEYS: store, profiles,
# more:profiles. ARGV: identity, then for each user: its id, the version that was read, the profile.
PUT_USERS = Script(
    _BEGIN
    + """
for i = 2, #ARGV, 3 do
  local own = redis.call('HGET', KEYS[2], ARGV[i]) or redis.call('HGET', KEYS[3], ARGV[i])
  if string.sub(own or '', 1, 8) ~= ARGV[i + 1] then return 0 end
end
for i = 2, #ARGV, 3 do redis.call('HSET', KEYS[2], ARGV[i], ARGV[i + 2]) end
return 1
"""
)

# Stages rows that the store does not have. KEYS: store, live, staged. ARGV: identity, seconds that
# the staged rows are kept unless they are taken, then key and row of each. Answers how many are
# new.
STAGE = Script(
    _BEGIN
    + """
local new = 0
for i = 3, #ARGV, 2 do
  if redis.call('HEXISTS', KEYS[2], ARGV[i]) == 0 then
    redis.call('HSET', KEYS[3], ARGV[i], ARGV[i + 1])
    new = new + 1
  end
end
redis.call('EXPIRE', KEYS[3], ARGV[2])
return new
"""
)

# Makes all that was staged visible at once. KEYS: store, seeded, next, position, then live and
# staged of catalogue, positions, then live, more and staged of numbers, ids, profiles, histories.
# ARGV: identity, mark of this data, release, mark and next that were read, next to be, position to
# be ('' for no change). Answers 'done', 'already', or 'again' when it is not as it was read.
FLIP = Script(
    _BEGIN
    + """
local mark = redis.call('HGET', KEYS[2], 'mark') or ''
if mark == ARGV[2] then return 'already' end
if mark ~= ARGV[4] or (redis.call('GET', KEYS[3]) or '0') ~= ARGV[5] then return 'again' end
if ARGV[7] ~= '' and (redis.call('GET', KEYS[4]) or '0') ~= '0' then return 'again' end
for i = 9, #KEYS, 3 do
  if redis.call('EXISTS', KEYS[i + 1]) == 1 then return 'again' end
end
local function move(from, to)
  if redis.call('EXISTS', from) == 1 then
    redis.call('RENAME', from, to)
    redis.call('PERSIST', to)
  end
end
for i = 5, 7, 2 do move(KEYS[i + 1], KEYS[i]) end
for i = 9, #KEYS, 3 do
  move(KEYS[i + 2], redis.call('EXISTS', KEYS[i]) == 1 and KEYS[i + 1] or KEYS[i])
end
redis.call('SET', KEYS[3], ARGV[6])
if ARGV[7] ~= '' then redis.call('SET', KEYS[4], ARGV[7]) end
redis.call('HSET', KEYS[2], 'mark', ARGV[2], 'release', ARGV[3])
return 'done'
"""
)

# Moves some rows of a seed to the others; those that were written since stay. KEYS: store, live,
# more. ARGV: identity, cursor, count. Answers the next cursor.
FOLD = Script(
    _BEGIN
    + """
local found = redis.call('HSCAN', KEYS[3], ARGV[2], 'COUNT', ARGV[3])
for i = 1, #found[2], 2 do
  redis.call('HSETNX', KEYS[2], found[2][i], found[2][i + 1])
  redis.call('HDEL', KEYS[3], found[2][i])
end
return found[1]
"""
)
