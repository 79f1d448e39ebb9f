-- Moves a piece of what is too much for one script: `chores.lua`. Returns how much is left to do.
go_on_without_memory()
local left = do_chores(PIECE)
tidy()
write_down()
return left
