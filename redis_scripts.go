package session

import (
	"strconv"
	"strings"

	"github.com/redis/go-redis/v9"
)

// What the scripts answer.
const (
	redisSaved    = 1
	redisGone     = 0
	redisConflict = -1
	redisIndex    = -2 // not saved yet: the user's index needs an entry first
	redisFar      = -3 // a conflict, and so many writes later that the trail does not tell our own
)

// luaRecord reads a record's first line. Its places and its pattern are those
// of record.go. A key that holds no string is read as '?', which is no record.
var luaRecord = strings.NewReplacer(
	"TIME", strings.Repeat("%d", timeDigits),
	"TRAIL", strings.Repeat("%S", TrailLen),
).Replace(`
local function parse(text)
	return string.match(text, '^s1 (TIME) (TIME) (TRAIL) (%d+) (%d+) (%S+) %S+ (%S+) (%S*) ')
end
local function head(key)
	local text = redis.pcall('GETRANGE', key, 0, 511)
	if type(text) == 'table' then
		if string.find(text.err, 'WRONGTYPE', 1, true) then return '?' end
		error(text.err)
	end
	if #text == 512 and not string.find(text, '\n', 1, true) then text = redis.call('GET', key) end
	return text
end
local function live(now, expires, created, deadline)
	return now < tonumber(expires) and (deadline == '-' or now < created + deadline)
end
`)

// luaEnter writes an index entry. What has expired goes, but an hour late:
// the clock of another node may be behind. ZADD GT came with Redis 6.2.
const luaEnter = `
local function enter(index, id, score, now)
	redis.call('ZADD', index, 'GT', score, id)
	redis.call('ZREMRANGEBYSCORE', index, '-inf', now - 3600000)
	local last = redis.call('ZREVRANGE', index, 0, 0, 'WITHSCORES')[2]
	redis.call('PEXPIRE', index, string.format('%d', last - now + 3600000))
end
`

// The expiries are relative, so that a server whose clock is wrong keeps a
// record no shorter and no longer; the record has the exact time.

// saveScript is the compare-and-set.
//
//	KEYS  the record, and the user's index if it lies on the same server
//	ARGV  text, version before, now, milliseconds to live, ID,
//	      score of the index entry ("" if none is needed)
//
// The write is named in the text; the names of the two writes before it are
// taken over from the stored record. A writer that finds its own name there
// has lost an answer, not a race; one that comes so late that its name may have
// gone again cannot know.
var saveScript = redis.NewScript(strings.NewReplacer(
	"WRITE_FROM", strconv.Itoa(RecordTrail+1),
	"WRITE_TO", strconv.Itoa(RecordTrail+writeLen),
	"REST", strconv.Itoa(RecordTrail+TrailLen+1),
	"LEN", strconv.Itoa(writeLen),
	"KEEP", strconv.Itoa(TrailLen-writeLen),
).Replace(luaRecord + luaEnter + `
local key, index = KEYS[1], KEYS[2]
local text, version, now, ttl, id, score = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[5], ARGV[6]
local old = head(key)
local expires, _, trail, stored, created, deadline, _, user = parse(old)
if old ~= '' and not expires then
	if version == '0' then return -1 end
	return 0
end
if expires and live(now, expires, created, deadline) then
	local age = stored - version - 1
	if age >= 0 and age <= 2 and string.sub(trail, age*LEN + 1, age*LEN + LEN) == string.sub(text, WRITE_FROM, WRITE_TO) then
		return 1
	end
	if age > 2 then return -3 end
	if stored ~= version then return -1 end
	text = string.sub(text, 1, WRITE_TO) .. string.sub(trail, 1, KEEP) .. string.sub(text, REST)
elseif version ~= '0' then
	return 0
else
	user = nil
end
if score ~= '' then
	local _, _, _, _, c, d, _, u = parse(text)
	if u ~= user or c ~= created or d ~= deadline then
		if not index then return -2 end
		enter(index, id, score, now)
	end
end
if ttl > 0 then
	redis.call('SET', key, text, 'PX', ARGV[4])
else
	redis.call('DEL', key)
end
return 1
`))

// updateScript is saveScript for what most saves are: an update of a record
// whose user and lifetime stay. It reads no more of the record than it needs
// and copies none of it twice; anything else it leaves to saveScript.
//
//	KEYS  the record
//	ARGV  text up to the end of the write's name, text behind the trail,
//	      version before, now, milliseconds to live,
//	      created, deadline and user as in the text ("" if there is no index)
var updateScript = redis.NewScript(strings.NewReplacer(
	"EXPIRES_FROM", strconv.Itoa(RecordExpires+1),
	"EXPIRES_TO", strconv.Itoa(RecordExpires+timeDigits),
	"TRAIL_FROM", strconv.Itoa(RecordTrail+1),
	"TRAIL_KEEP", strconv.Itoa(RecordTrail+TrailLen-writeLen),
	"REST", strconv.Itoa(RecordTrail+TrailLen+2),
	"NAME", strconv.Itoa(-writeLen),
	"LEN", strconv.Itoa(writeLen),
).Replace(`
local sub = string.sub
local old = redis.call('GETRANGE', KEYS[1], 0, 223)
if old == '' then return 0 end
local _, _, stored, created, deadline, user = string.find(old, '^(%d+) (%d+) (%S+) %S+ %S+ (%S*) ', REST)
local expires = tonumber(sub(old, EXPIRES_FROM, EXPIRES_TO))
if not stored or not expires then return -2 end
local now = tonumber(ARGV[4])
if now >= expires or deadline ~= '-' and now >= created + deadline then return 0 end
if stored ~= ARGV[3] then
	local age = stored - ARGV[3] - 1
	if age >= 0 and age <= 2 and sub(old, TRAIL_FROM + age*LEN, TRAIL_FROM + age*LEN + LEN - 1) == sub(ARGV[1], NAME) then
		return 1
	end
	return age > 2 and -3 or -1
end
if ARGV[6] ~= '' and (created ~= ARGV[6] or deadline ~= ARGV[7] or user ~= ARGV[8]) then return -2 end
redis.call('SET', KEYS[1], ARGV[1] .. sub(old, TRAIL_FROM, TRAIL_KEEP) .. ARGV[2], 'PX', ARGV[5])
return 1
`))

// enterScript writes an index entry before its record, where they lie on
// different servers. KEYS: the index. ARGV: ID, score, now.
var enterScript = redis.NewScript(luaEnter + `
enter(KEYS[1], ARGV[1], ARGV[2], tonumber(ARGV[3]))
return 1
`)

// touchScript moves the times forward where they stand.
// KEYS: the record. ARGV: now, seen, expires, both as in the text.
var touchScript = redis.NewScript(luaRecord + `
local now, seen, expires = tonumber(ARGV[1]), ARGV[2], ARGV[3]
local oldExpires, oldSeen, _, _, created, deadline, flags = parse(head(KEYS[1]))
if not oldExpires or string.find(flags, 'r', 1, true) or not live(now, oldExpires, created, deadline) then return 0 end
if deadline ~= '-' and tonumber(expires) > created + deadline then
	expires = string.format('%013d', created + deadline)
end
if tonumber(expires) < tonumber(oldExpires) then expires = oldExpires end
if tonumber(seen) < tonumber(oldSeen) then seen = oldSeen end
if expires ~= oldExpires or seen ~= oldSeen then
	redis.call('SETRANGE', KEYS[1], ` + strconv.Itoa(RecordExpires) + `, expires .. ' ' .. seen)
	redis.call('PEXPIRE', KEYS[1], string.format('%d', expires - now))
end
return 1
`)

// deleteScript is DEL, for writes that wait for replicas.
var deleteScript = redis.NewScript(`return redis.call('DEL', KEYS[1])`)

// deleteUserScript ends a session if it is this user's.
// KEYS: the record, and the user's index if it lies on the same server.
// ARGV: now, user as in the text, ID.
// 1: ended, 2: removed, but it had expired, 0: there is no record, -1: it is not the user's.
var deleteUserScript = redis.NewScript(luaRecord + `
local text = head(KEYS[1])
if text == '' then return 0 end
local expires, _, _, _, created, deadline, flags, user = parse(text)
if user ~= ARGV[2] or string.find(flags, 'r', 1, true) then return -1 end
redis.call('DEL', KEYS[1])
if KEYS[2] then redis.call('ZREM', KEYS[2], ARGV[3]) end
if live(tonumber(ARGV[1]), expires, created, deadline) then return 1 end
return 2
`)
