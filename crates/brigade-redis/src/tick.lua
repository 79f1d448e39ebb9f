-- Has everything happen whose time has come, before the queue is looked at.
go_on_without_memory()
check_queue()
tick()
return 1
