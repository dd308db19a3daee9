-- Most calls are plain: no account is new, has a top-up or controls, or lets past, and no number has more than 15 digits,
-- so that sums of a few are exact as doubles.  For them reserve and end have a short way, which decides and writes the same
-- as the general one below it.  It makes no closures or tables it can do without, they are most of what a script costs; and
-- it answers nil, before any write, where a call is not plain.
local LONG = 1e15
-- The limits and the window of terms without controls.
local LIMITS = '^%["?(%-?%d+)"?,"?(%-?%d+)"?,"?(%-?%d+)"?,(%-?%d+),(%-?%d+),%[%]%]$'
-- What an account's text begins with: a 'p', its balances and number of holds, and a letter.
local PACKED, BALANCES, NOTHING_MORE, TOP_UP = 112, '<Bi8i8i8i8i8i8i8i8i8i8B', 32, 43
