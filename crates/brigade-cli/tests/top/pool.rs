//! The pool of a running program, this one.

use brigade::Pool;

use crate::terminal::Terminal;

#[tokio::test(flavor = "multi_thread")]
async fn it_shows_the_pool_of_a_running_program() {
    let terminal = Terminal::new(120, 24);
    let path = terminal.path("pool");
    // The command is a program with workers, too.
    let pool = Pool::builder()
        .workers(2)
        .program(env!("CARGO_BIN_EXE_brigade"), [] as [&str; 0])
        .monitor(&path);
    let pool = pool.start().await.unwrap();
    terminal.start_top(&format!("--pool {}", path.display()));
    terminal.wait_for("2 workers (0 busy, 2 idle");
    let pid = pool.workers()[1].pid.unwrap().to_string();
    terminal.wait_until("its workers", |screen| screen.contains(&pid));
    terminal.type_text("2");
    terminal.wait_for("no call runs");
    terminal.type_text("1");
    pool.shutdown().await;
    terminal.wait_for("NO DATA");
    terminal.type_text("q");
    terminal.wait_for("code 0");
    terminal.type_line(&format!(
        "clear; \"$BRIGADE\" top --pool {}",
        path.display()
    ));
    terminal.wait_for("cannot watch a pool at");
}
