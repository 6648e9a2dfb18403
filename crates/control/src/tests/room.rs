//! What the machine has room for: of one that scales.

use bowline_core::scale::Demand;

use super::scaling::{BETWEEN, events, flow, scale, serving, toml, web};
use super::*;

#[test]
fn cores_bound_what_scales_and_it_is_said() {
    let (mut world, mut daemon) = serving(BETWEEN, "limits = { cpu = 1.5 }\n");
    flow(&mut world, &mut daemon, 100, 30);
    assert_eq!(world.running().len(), 2, "4 cores are two of 1.5");
    let status = scale(&mut world, &mut daemon);
    assert_eq!((status.bound.as_deref(), status.allowed), (Some("cores"), Some(2)));
    assert_eq!(status.bounded.as_deref(), Some("10 wanted, 2 allowed by cores"));
    let told = events(&daemon, "scale.by_load");
    assert!(told.last().unwrap().contains("2 allowed by cores"), "{told:?}");
}

/// Both rush at once: what one is to have, the other does not get.
#[test]
fn two_apps_share_the_cores() {
    let (mut world, mut daemon) = serving(BETWEEN, "limits = { cpu = 1.5 }\n");
    let mall = AppKey { app: AppName::new("mall").unwrap(), ..shop() };
    world.edge.demand.insert((mall.clone(), web().1), Demand::default());
    world.write("bowline.toml", &toml(BETWEEN, "limits = { cpu = 1 }\n").replace("\"shop\"", "\"mall\""));
    world.apply(&mut daemon);
    world.run(&mut daemon);
    let rush = |world: &mut World, daemon: &mut Daemon| {
        for _ in 0..30 {
            world.edge.demand.values_mut().for_each(|demand| demand.busy += Duration::from_secs(100));
            world.wait_until(daemon, world.now.mono + Duration::from_secs(1));
            world.run(daemon);
        }
        let of = |app: &str| world.running().iter().filter(|id| id.starts_with(&format!("local/{app}."))).count();
        (of("mall"), of("shop"))
    };
    let (of_mall, of_shop) = rush(&mut world, &mut daemon);
    let (taken, least) = (of_mall * 1000 + of_shop * 1500, 4000 - 1500 + 1);
    assert!((least..=4000).contains(&taken), "{of_mall} of 1 core and {of_shop} of 1.5");
    for app in world.status(&mut daemon).apps {
        assert_eq!(app.services[0].scale.as_ref().unwrap().bound.as_deref(), Some("cores"), "{app:?}");
    }
    world.stop(&mut daemon);
    world.run(&mut daemon);
    assert_eq!(rush(&mut world, &mut daemon), (4, 0), "what the other had is free");
    assert_eq!(daemon.machine.apps[&mall].sets[0].replicas, 4);
}
